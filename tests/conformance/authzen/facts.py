"""Requests and what has to be decided, as data.

The certification scenario: openid/authzen, certification/authorization-api-1_0-scenario.md (the eight decisions of its section
"Required Policy Behaviour", and the requests of "Error Handling"). The Todo interop scenario: openid/authzen,
interop/authzen-todo-backend/test/decisions-1.1-preview.json, with `evaluations` as the list that Authorization API 1.0 has.
"""

ALICE = {"type": "user", "id": "alice"}
BOB = {"type": "user", "id": "bob"}
ADMIN = {**BOB, "properties": {"role": "admin"}}
R1 = {"type": "record", "id": "record-1"}
R2 = {"type": "record", "id": "record-2"}
ACTIVE = {**R1, "properties": {"status": "active"}}
ARCHIVED = {**R2, "properties": {"status": "archived"}}


def action(name, **properties):
    return {"name": name, **({"properties": properties} if properties else {})}


def request(subject, what, resource, **more):
    return {"subject": subject, "action": what if isinstance(what, dict) else action(what), "resource": resource, **more}


# Rule 1 to 8.
MANDATED = [
    (request(ALICE, "read", R1), True),
    (request(ALICE, "write", R1), True),
    (request(BOB, "read", R1), True),
    (request(BOB, "write", R1), False),
    (request(ALICE, "write", ARCHIVED), False),
    (request(ADMIN, "write", ARCHIVED), True),
    (request(ALICE, action("delete", soft=True), R1), True),
    (request(ALICE, action("delete", soft=False), R1), False),
]

READ = request(ALICE, "read", R1)

# Also true: with a context, with more properties, with members that nobody knows.
ACCEPTED = [
    {**READ, "context": {"time": "2025-06-27T18:03-07:00", "ip": "192.168.1.1"}},
    request({**ALICE, "properties": {"department": "Sales", "role": "manager"}}, action("read", method="GET"),
            {**R1, "properties": {"status": "active", "owner": "bob"}}),
    {**READ, "foo": "bar", "futureField": {"nested": True}},
]


def without(of, *path):
    """`of` without the member that `path` leads to."""
    first, *rest = path
    if rest:
        return {**of, first: without(of[first], *rest)}
    return {name: value for name, value in of.items() if name != first}


MALFORMED = [without(READ, *path) for path in [
    ("subject",), ("action",), ("resource",), ("subject", "type"), ("subject", "id"), ("action", "name"),
    ("resource", "type"), ("resource", "id")]] + [
    {**READ, "subject": "alice"}, {**READ, "action": {"name": 123}}]

# Defaults and items, and what has to be decided; None: any decision.
BATCHES = [
    ({"subject": ALICE, "action": action("read"), "evaluations": [{"resource": R1}, {"resource": R2}]}, [None, None]),
    ({"subject": BOB, "resource": R1, "evaluations": [{"action": action("read")}, {"action": action("write")}]}, [True, False]),
    ({"subject": ALICE, "action": action("write"), "evaluations": [{"resource": ACTIVE}, {"resource": ARCHIVED}]}, [True, False]),
    ({"action": action("write"), "resource": ARCHIVED, "evaluations": [{"subject": ALICE}, {"subject": ADMIN}]}, [False, True]),
    ({"evaluations": [READ, request(BOB, "write", R1)]}, [True, False]),
    ({"subject": ALICE, "action": action("read"), "context": {"time": "2025-06-27T18:03-07:00"},
      "evaluations": [{"resource": R1}, {"resource": R2, "context": {"source": "batch-override"}}]}, [None, None]),
    ({"subject": ALICE, "action": action("write"), "resource": {"type": "record"},
      # The members are not below 'resource': both are errors of one evaluation.
      "evaluations": [without(ACTIVE, "type"), ARCHIVED]}, [False, False]),
    ({"subject": ALICE, "action": action("write"), "resource": {"type": "record"},
      "evaluations": [{"resource": without(ACTIVE, "type")}, {"resource": ARCHIVED}]}, [True, False]),
    ({"subject": ALICE, "action": action("read"), "evaluations": [{"resource": R1}, {}]}, [True, False]),
]

# Name, id at the identity provider, whether it may create, whose items it may change and delete.
TODO_USERS = [
    ("rick@the-citadel.com", "CiRmZDA2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", True,
     {"rick@the-citadel.com": True, "morty@the-citadel.com": True}),
    ("morty@the-citadel.com", "CiRmZDE2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", True,
     {"rick@the-citadel.com": False, "morty@the-citadel.com": True}),
    ("summer@the-smiths.com", "CiRmZDI2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", True,
     {"rick@the-citadel.com": False, "summer@the-smiths.com": True}),
    ("beth@the-smiths.com", "CiRmZDM2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", False,
     {"rick@the-citadel.com": False, "beth@the-smiths.com": False}),
    ("jerry@the-smiths.com", "CiRmZDQ2MTRkMy1jMzlhLTQ3ODEtYjdiZC04Yjk2ZjVhNTEwMGQSBWxvY2Fs", False,
     {"rick@the-citadel.com": False, "jerry@the-smiths.com": False}),
]
TODO_ITEM = "7240d0db-8ff0-41ec-98b2-34a096273b9f"


def owned(owner):
    return {"type": "todo", "id": TODO_ITEM, "properties": {"ownerID": owner}}


def todo():
    """The forty decisions of the interop scenario, in its order."""
    for name, identity, creates, owners in TODO_USERS:
        subject = {"type": "user", "id": identity}
        for user in ["beth@the-smiths.com", name]:
            yield request(subject, "can_read_user", {"type": "user", "id": user}), True
        yield request(subject, "can_read_todos", {"type": "todo", "id": "todo-1"}), True
        yield request(subject, "can_create_todo", {"type": "todo", "id": "todo-1"}), creates
        for what in ["can_update_todo", "can_delete_todo"]:
            for owner, expected in owners.items():
                yield request(subject, what, owned(owner)), expected


TODO_BATCHES = [
    ({"subject": {"type": "user", "id": TODO_USERS[user][1]}, "action": action("can_update_todo"),
      "evaluations": [{"resource": owned(owner)} for owner in owners]}, expected)
    for user, owners, expected in [
        (0, ["rick@the-citadel.com", "jerry@the-smiths.com"], [True, True]),
        (1, ["rick@the-citadel.com", "morty@the-citadel.com"], [False, True]),
        (4, ["rick@the-citadel.com", "jerry@the-smiths.com"], [False, False]),
    ]
]
