"""What the console does for a person, for programs, and for those who are neither. A "refused" case shows that nothing was
answered, and that the allowed neighbour goes through."""

import contextlib
import json
import os
import re
import socket
import subprocess
import time

from browser import Browser
from world import ROOT, Console, Gateway, Session

SHOTS = os.environ.get("SCREENSHOTS")


@contextlib.contextmanager
def person(world):
    """A console, and a browser whose person has registered the first passkey."""
    with Console(world) as console, Browser() as browser:
        tab = browser.tab()
        tab.passkeys()
        tab.go(console.link())
        tab.click("#enrol")
        tab.wait("document.querySelector('main')?.dataset.page === 'list'")
        yield console, browser, tab


def ask(gateway, agent, path="/things", body=None, **others):
    """A call that waits; the question's id."""
    before = {a["id"] for a in gateway.pending()}
    answer = gateway.call(agent, path, "POST", body if body is not None else {"n": 1}, **others)
    assert answer.status == 202, answer
    new = [a for a in gateway.pending() if a["id"] not in before]
    assert len(new) == 1, new
    return new[0]["id"]


def opened(console, tab, question):
    tab.go(f"{console.url}/questions/{question.replace(':', '%3A')}")
    tab.wait("document.querySelector('main')?.dataset.page === 'question'")


def said(tab, text):
    tab.wait(f"document.getElementById('said')?.textContent.includes({json.dumps(text)})")


def shot(tab, name, **options):
    if SHOTS:
        tab.screenshot(f"{SHOTS}/{name}.png", **options)


def registration(check, world):
    """login: the printed link registers a passkey, once; then the passkey logs in, and nothing else does"""
    with person(world) as (console, browser, tab):
        check("the list is shown", "Nothing waits" in tab.text(), tab.text())
        cookies = tab.send("Network.getCookies", {"urls": [console.url]})["cookies"]
        check("one cookie, which no script reads and no other site sends",
              [(c["httpOnly"], c["sameSite"]) for c in cookies] == [(True, "Strict")], cookies)
        keys = tab.credentials()
        check("one passkey, for this host name", [k["rpId"] for k in keys] == ["localhost"], keys)
        tab.go(console.link())
        tab.click("#enrol")
        said(tab, "was used")
        check("the link holds once", len(tab.credentials()) == 1)
        tab.go(f"{console.url}/")
        tab.click("#logout")
        tab.wait("location.pathname === '/login'")
        tab.go(f"{console.url}/")
        check("logged out", tab.js("location.pathname") == "/login", tab.text())
        tab.verified(False)
        tab.click("#login")
        tab.wait("document.getElementById('said').textContent !== ''")
        check("not without knowing the person", tab.js("location.pathname") == "/login", tab.text())
        tab.verified(True)
        tab.click("#login")
        tab.wait("document.querySelector('main')?.dataset.page === 'list'")
        check("the passkey logs in", "ada" in tab.text(), tab.text())
        check("the pages need nothing that their policy refuses", not tab.violations(), tab.violations())
        acts = console.acts()
        check("both are in the ledger, and the invitation before", acts == [
            ("invite", f"uid:{os.getuid()}", "terminal"), ("enrol", "account:ada", "invitation"), ("login", "account:ada", "passkey")], acts)


def outage(check, world):
    """record: who cannot be recorded is not let in, and is as soon as that can be"""
    with Console(world) as console, Browser() as browser:
        admin = console.token("admin")
        tab = browser.tab()
        tab.passkeys()
        tab.go(console.link())
        # From now on the ledger cannot be published, and soon takes nothing more.
        os.mkdir(f"{world.state}/ledger/checkpoint.tmp")
        end = time.monotonic() + 20
        while (answer := console.call("/api/v1/agents/none/revoke", "POST", admin)).status != 503:
            assert time.monotonic() < end, answer
            time.sleep(0.05)
        tab.click("#enrol")
        said(tab, "cannot be recorded")
        check("nobody was let in", "nobody has a passkey" in world.run("serve", "people").stdout, tab.text())
        tab.go(f"{console.url}/")
        check("nor logged in", tab.js("location.pathname") == "/login", tab.text())
        os.rmdir(f"{world.state}/ledger/checkpoint.tmp")
        tab.go(console.link())
        tab.click("#enrol")
        tab.wait("document.querySelector('main')?.dataset.page === 'list'")
        check("the link still holds", "ada" in world.run("serve", "people").stdout)
        check("and its use is in the ledger", ("enrol", "account:ada", "invitation") in console.acts(), console.acts())


def approval(check, world):
    """approval: what is shown is what is bound, the call goes ahead once, and not without the person"""
    with person(world) as (console, browser, tab), Gateway(world, "bank") as gateway:
        agent = gateway.agent("read", "write")
        body = {"to": "DE\u202e99", "amount": 5}
        question = ask(gateway, agent, "/transfers", body)
        tab.wait("document.querySelector('.card')")
        check("it comes to the open list by itself", "/transfers" in tab.text(), tab.text())
        shot(tab, "list-light")
        opened(console, tab, question)
        shot(tab, "question-light")
        shot(tab, "question-dark", scheme="dark")
        shot(tab, "question-phone", scheme="dark", width=390, height=844, mobile=True)
        tab.send("Emulation.clearDeviceMetricsOverride")
        asked = [a for a in gateway.pending() if a["id"] == question][0]
        check("the bound text is shown as it is hashed, what cannot be seen spelled out",
              tab.js("document.querySelector('.canonical').textContent")
              == asked["canonical"].replace("\u202e", "\\u{202e}"), tab.text())
        check("it is marked", tab.js("document.querySelector('.canonical .odd').textContent") == "\\u{202e}")
        check("with what the answer is bound to", asked["digest"] in tab.text(), tab.text())
        check("and the time that is left", tab.js("/^[0-5]:[0-5][0-9] left$/.test(document.querySelector('.left').textContent)"),
              tab.text())
        calls = len(world.api.seen)
        tab.verified(False)
        tab.click("#approve")
        tab.wait("document.getElementById('said').textContent !== ''")
        check("not by who drives the browser alone", gateway.call(agent, "/transfers", "POST", body).status == 202)
        tab.verified(True)
        tab.click("#approve")
        said(tab, "approved for once")
        check("approved", "approved for once" in tab.text(), tab.text())
        check("nothing was called meanwhile", len(world.api.seen) == calls)
        answer = gateway.call(agent, "/transfers", "POST", body)
        check("the call goes ahead", answer.status == 200 and len(world.api.seen) == calls + 1, answer)
        answer = gateway.call(agent, "/transfers", "POST", body)
        check("once", answer.status == 202 and len(world.api.seen) == calls + 1, answer)
        acts = [a for a in console.acts() if a[0] == "approve"]
        check("the person and the passkey are in the ledger", acts == [("approve", "account:ada", "passkey")], acts)
        check("the pages need nothing that their policy refuses", not tab.violations(), tab.violations())


def rejection(check, world):
    """rejection: the agent reads the reason, the API sees nothing; what it changed then is shown"""
    with person(world) as (console, browser, tab), Gateway(world, "bank") as gateway:
        agent = gateway.agent("write")
        question = ask(gateway, agent, "/transfers", {"amount": 500})
        opened(console, tab, question)
        tab.type("#reason", "Not more than 100.")
        tab.click("#reject")
        said(tab, "rejected")
        answer = gateway.call(agent, "/transfers", "POST", {"amount": 500})
        check("the agent is told why", answer.status == 403 and "Not more than 100." in answer.json["detail"], answer)
        check("the API saw nothing", "POST /transfers" not in world.api.paths(), world.api.paths())
        question = ask(gateway, agent, "/transfers", {"amount": 50})
        opened(console, tab, question)
        rows = tab.js("[...document.querySelectorAll('.changes tbody tr')].map(r => [...r.children].map(c => c.textContent))")
        check("what is another than before", ["/arguments/arguments/amount", "500", "50"] in rows, rows)
        shot(tab, "difference-light")


def reach(check, world):
    """reach: for the session, or for what a pattern matches, which is shown before"""
    with person(world) as (console, browser, tab), Gateway(world, "bank") as gateway:
        agent = gateway.agent("write")
        base = world.api.url
        ask(gateway, agent, "/other")
        question = ask(gateway, agent, "/things/1")
        opened(console, tab, question)
        tab.click("input[value=pattern]")
        tab.type("#pattern", f"{base}/**")
        tab.wait("document.querySelectorAll('#pattern-matches li').length === 2")
        tab.type("#pattern", f"{base}/things/*")
        tab.wait("document.querySelectorAll('#pattern-matches li').length === 1")
        shown = tab.js("document.getElementById('pattern-matches').textContent")
        check("what it matches is shown", shown == f"{base}/things/1", shown)
        shot(tab, "pattern-light", height=1300)
        tab.send("Emulation.clearDeviceMetricsOverride")
        tab.type("#pattern", f"{base}/nothing/*")
        tab.wait("document.getElementById('pattern-said').textContent.includes('does not match')")
        tab.click("#approve")
        tab.wait("document.getElementById('said').className === 'bad'")
        check("one that does not cover the question is refused", "does not match" in tab.text(), tab.text())
        tab.type("#pattern", f"{base}/things/*")
        tab.click("#approve")
        said(tab, "approved for pattern")
        answers = [gateway.call(agent, path, "POST", {"n": 9}).status for path in ["/things/1", "/things/2", "/other2"]]
        check("others that match go ahead, and no more", answers == [200, 200, 202], answers)


def sessions(check, world):
    """sessions: a question of a real 'agentwall run' is answered on the page, yes and no"""
    with person(world) as (console, browser, tab):
        script = "echo one > asked-1; echo two > asked-2 || echo REFUSED; true"
        with Session(world, script) as session:
            tab.wait("document.querySelector('.card')?.textContent.includes('asked-1')")
            opened(console, tab, tab.js("decodeURIComponent(document.querySelector('.card').pathname.split('/').pop())"))
            tab.click("#approve")
            said(tab, "approved for once")
            tab.go(f"{console.url}/")
            tab.wait("document.querySelector('.card')?.textContent.includes('asked-2')")
            opened(console, tab, tab.js("decodeURIComponent(document.querySelector('.card').pathname.split('/').pop())"))
            tab.click("#reject")
            said(tab, "rejected")
            output = session.end()
        check("what was approved was written", os.path.exists(f"{session.workspace}/asked-1"), output)
        check("what was rejected was not", not os.path.exists(f"{session.workspace}/asked-2"), output)


def forged(check, world):
    """forgery: nothing is answered for other sites, without the session's token, or without the assertion for exactly it"""
    with person(world) as (console, browser, tab), Gateway(world, "bank") as gateway:
        agent = gateway.agent("write")
        first, second = ask(gateway, agent, "/a"), ask(gateway, agent, "/b")
        path = f"/api/v1/questions/{first}"
        # A page of another origin in the same browser.
        other = browser.tab(f"{world.api.url}/page")
        for kind in ["application/json", "text/plain"]:
            other.js(f"""fetch({json.dumps(console.url + path + '/reject')}, {{method: 'POST', mode: 'no-cors', credentials: 'include',
                headers: {{'content-type': '{kind}'}}, body: '{{}}'}}).catch(() => null)""")
        other.js(f"""fetch({json.dumps(console.url + '/')}, {{credentials: 'include'}}).then(r => r.text()).then(t => window.got = t)
            .catch(() => window.got = 'refused')""")
        check("another origin reads nothing", other.js("window.got") == "refused", other.js("window.got"))
        other.js(f"""(() => {{ const f = document.createElement('iframe'); f.src = {json.dumps(console.url + '/login')};
            document.body.append(f); }})()""")
        framed = other.js("new Promise(r => setTimeout(() => { try { r(frames[0].document.body.innerText) } catch (e) { r('') } }, 500))")
        check("no page is shown in a frame", "passkey" not in (framed or ""), framed)
        cookie = tab.send("Network.getCookies", {"urls": [console.url]})["cookies"][0]
        head = {"Cookie": f"{cookie['name']}={cookie['value']}"}
        csrf = tab.js("document.querySelector('meta[name=csrf]').content")
        own = {**head, "Origin": console.url, "x-agentwall-csrf": csrf}
        for what, headers in [
            ("without an origin", {**own, "Origin": ""}), ("of another origin", {**own, "Origin": "http://evil.example"}),
            ("of another port", {**own, "Origin": f"http://localhost:{gateway.port}"}),
            ("without the token", {**own, "x-agentwall-csrf": ""}), ("with another token", {**own, "x-agentwall-csrf": "x" * 43}),
            ("without the cookie", {"Origin": console.url, "x-agentwall-csrf": csrf}),
        ]:
            answer = console.call(f"{path}/reject", "POST", body={}, headers=headers)
            check(f"a rejection {what}", answer.status in (401, 403), answer)
        digests = {a["id"]: a["digest"] for a in gateway.pending()}
        plain = {"digest": digests[first], "scope": "once"}
        answer = console.call(f"{path}/approve", "POST", body=plain, headers=own)
        check("an approval without an assertion", (answer.status, answer.json["type"])
              == (403, "urn:agentwall:problem:assertion-required"), answer)
        # The assertion of one answer, taken for another.
        make = """async (of, body, to, then) => {
            const { publicKey } = await ask(`/api/v1/questions/${of}/assertion`, body);
            const made = await assertion(publicKey);
            const send = async () => { try { return (await ask(`/api/v1/questions/${to}/approve`, {...then, assertion: made})).done; }
                                       catch (e) { return e.message; } };
            return [await send(), await send()]; }"""
        tab.go(f"{console.url}/")
        run = lambda *a: tab.js(f"({make})({', '.join(json.dumps(x) for x in a)})")
        for what, to, then in [("for another question", second, {"digest": digests[second], "scope": "once"}),
                               ("for another reach", first, {"digest": digests[first], "scope": "session"})]:
            done = run(first, plain, to, then)
            check(f"an assertion {what}", "is for another" in done[0] and "fresh assertion" in done[1], done)
        check("all still wait", sorted(a["id"] for a in gateway.pending()) == sorted([first, second]), gateway.pending())
        check("the API saw nothing", not [p for p in world.api.paths() if p.startswith("POST")], world.api.paths())
        done = run(first, plain, first, plain)
        check("the assertion for it, once", "approved for once" in done[0] and "no such question" in done[1], done)


def stale(check, world):
    """stale: a second tab's answer to what was answered is told so, and changes nothing"""
    with person(world) as (console, browser, tab), Gateway(world, "bank") as gateway:
        agent = gateway.agent("write")
        question = ask(gateway, agent, "/a")
        late, told = browser.tab(), browser.tab()
        late.send("Network.setBlockedURLs", {"urls": ["*/api/v1/events"]})
        for one in [late, told, tab]:
            opened(console, one, question)
        tab.click("#approve")
        said(tab, "approved for once")
        said(told, "not open any more")
        check("an open tab learns it by itself", told.js("document.getElementById('reject').disabled"))
        late.click("#reject")
        said(late, "no such question is open")
        check("the late answer is told so", "no such question is open" in late.text(), late.text())
        check("and the first one holds", gateway.call(agent, "/a", "POST", {"n": 1}).status == 200)


def programs(check, world):
    """tokens: each role has its own, and a token is good until it is revoked"""
    with Console(world) as console, Gateway(world, "bank") as gateway:
        agent = gateway.agent("write")
        question = ask(gateway, agent, "/a")
        roles = {role: console.token(role) for role in ["admin", "approver", "auditor", "operator"]}
        routes = {"/api/v1/questions": {"admin", "approver", "auditor"}, f"/api/v1/questions/{question}": {"admin", "approver", "auditor"},
                  "/api/v1/agents": set(roles), "/api/v1/gateways": set(roles), "/api/v1/decisions": {"admin", "auditor"}}
        for route, may in routes.items():
            got = {role for role, token in roles.items() if console.call(route, token=token).status == 200}
            check(route, got == may, got)
            check(f"{route} without a token", console.call(route).status == 401)
        reject = f"/api/v1/questions/{question}/reject"
        for role in ["auditor", "operator"]:
            check(f"not by the {role}", console.call(reject, "POST", roles[role], {}).status == 403)
        # What was asked is in the ledger within a moment.
        end = time.monotonic() + 20
        while not (decisions := console.call("/api/v1/decisions?limit=1", token=roles["auditor"]).json)["decisions"]:
            if time.monotonic() > end:
                break
            time.sleep(0.1)
        check("decisions, a page at a time", len(decisions["decisions"]) == 1 and decisions["decisions"][0]["entry"]["effect"] == "ask",
              decisions)
        digest = console.call(f"/api/v1/questions/{question}", token=roles["approver"]).json["digest"]
        wrong = {"digest": "0" * 64, "scope": "once"}
        answer = console.call(f"/api/v1/questions/{question}/approve", "POST", roles["approver"], wrong)
        check("not what was not shown", (answer.status, answer.json["type"]) == (409, "urn:agentwall:problem:question-changed"), answer)
        answer = console.call(f"/api/v1/questions/{question}/approve", "POST", roles["approver"], {"digest": digest, "scope": "once"})
        check("an approver approves", answer.status == 200, answer)
        check("and the call goes ahead", gateway.call(agent, "/a", "POST", {"n": 1}).status == 200)
        answer = console.call(f"/api/v1/agents/{agent.id}/revoke", "POST", roles["operator"])
        check("an operator ends an agent", answer.status == 200, answer)
        check("it is ended", gateway.call(agent, "/a").status == 403)
        names = [line.split()[0] for line in world.run("serve", "token", "list").stdout.splitlines()]
        world.run("serve", "token", "revoke", [n for n in names if n.startswith("auditor")][0])
        check("a revoked token is nobody's", console.call("/api/v1/agents", token=roles["auditor"]).status == 401)
        check("others stay", console.call("/api/v1/agents", token=roles["admin"]).status == 200)
        with open(f"{world.state}/console/console.db", "rb") as file:
            data = file.read() + (open(f"{world.state}/console/console.db-wal", "rb").read())
        check("no token is kept", not [r for r in roles.values() if r.encode() in data])
        acts = [a[0] for a in console.acts()]
        check("all acts are in the ledger", acts == ["invite"] + ["token.create"] * 4 + ["approve", "revoke", "token.revoke"], acts)


def hosts(check, world):
    """requests: only under its own name, and every answer says what a browser may do with it"""
    with Console(world) as console:
        for host in ["evil.example", f"127.0.0.1:{console.port}", "localhost", f"localhost:{console.port}.evil.example"]:
            answer = console.call("/login", headers={"Host": host})
            check(f"as {host}", answer.status == 421, answer)
        for path in ["/login", "/assets/console.js", "/api/v1/health", "/nothing", "/api/v1/questions"]:
            answer = console.call(path)
            csp = answer.headers.get("content-security-policy", "")
            check(f"{path}: no inline, no frames", "default-src 'none'" in csp and "frame-ancestors 'none'" in csp
                  and "unsafe" not in csp and answer.headers["x-frame-options"] == "DENY"
                  and answer.headers["x-content-type-options"] == "nosniff", answer.headers)
        check("a method that is not there", console.call("/api/v1/questions", "DELETE").status == 405)
        check("a page without a session leads to the login", console.call("/").headers.get("location") == "/login")
        check("a body that is no JSON", console.call("/login/start", "POST", body=b"x=1", headers={
            "Content-Type": "text/plain", "Origin": console.url}).status == 415)
        check("a body that is too long", console.call("/login/start", "POST", body=b" " * 100_000, headers={
            "Content-Type": "application/json", "Origin": console.url}).status == 413)


def addresses(check, world):
    """address: it has both addresses of localhost or does not start, its links lead to it, and it ends at once"""
    console = Console(world)
    invite = lambda: world.run("serve", "invite", "--name", "bob", "--role", "auditor", check=False)
    before = invite()
    check("no link without a console", before.returncode != 0 and "no console runs here" in before.stderr, before)
    if socket.has_ipv6:
        with socket.socket(socket.AF_INET6) as other:
            other.bind(("::1", console.port))
            other.listen()
            done = subprocess.run(console.command, env={**os.environ, "AGENTWALL_STATE": world.state}, capture_output=True,
                                  text=True, timeout=30)
            check("not when somebody else has the other address", done.returncode == 1 and "[::1]" in done.stderr, done)
    with console:
        check("nobody was invited by what did not start", [a[0] for a in console.acts()] == ["invite"], console.acts())
        link = invite().stdout
        check("a link leads to the console that runs", link.startswith(f"{console.url}/enrol#"), link)
        with socket.create_connection(("127.0.0.1", console.port)) as half, \
                socket.create_connection(("127.0.0.1", console.port)) as stream:
            half.sendall(b"GET /api")
            stream.sendall(f"GET /api/v1/events HTTP/1.1\r\nHost: localhost:{console.port}\r\n"
                           f"Authorization: Bearer {console.token('auditor')}\r\n\r\n".encode())
            stream.settimeout(20)
            check("a stream is open", b" 200 " in stream.recv(100))
            since = time.monotonic()
            console.process.terminate()
            code = console.process.wait(20)
            took = time.monotonic() - since
            check("it ends, whatever is connected", code == 0 and took < 5, (code, took))
    check("then no link leads there", invite().returncode != 0)


def description(check, world):
    """description: Schemathesis finds no answer that OpenAPI does not have, and no failure, in what it makes up"""
    place = f"{ROOT}/.cache/schemathesis"
    subprocess.run([f"{ROOT}/scripts/venv", "schemathesis", f"{ROOT}/tests/console/requirements.txt"], check=True, timeout=300)
    with Console(world) as console, Gateway(world, "bank") as gateway:
        agent = gateway.agent("write")
        for number in range(4):
            ask(gateway, agent, f"/x{number}")
        checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
        done = subprocess.run(
            [f"{place}/bin/st", "run", f"{console.url}/api/v1/openapi.json", "--header",
             f"Authorization: Bearer {console.token('admin')}", "--checks", checks, "--max-examples", "25", "--seed", "1",
             "--no-color"], capture_output=True, text=True, cwd=world.dir, timeout=300)
        counted = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
        good = done.returncode == 0 and counted and counted[1] == counted[2] and int(counted[1]) > 200
        check(f"{counted[0] if counted else 'nothing'}", good, done.stdout[-3000:] + done.stderr[-1000:])


ALL = [registration, outage, approval, rejection, reach, sessions, forged, stale, programs, hosts, addresses, description]
