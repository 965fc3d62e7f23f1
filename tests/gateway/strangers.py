"""What strangers name and where they come from, in a network namespace of its own: names and addresses are this file's."""

import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import threading
import http.server

HERE = os.path.dirname(os.path.abspath(__file__))

# Of the loopback device in the namespace: to programs there they are on the public internet, or on another host.
KEYS, OTHER, INNER = "93.184.216.34", "93.184.216.35", "10.9.9.9"
NAMES = f"""127.0.0.1 localhost inner.example
{KEYS} keys.example agents.example moved.example mixed.example
{INNER} mixed.example private.example
"""


def inside(world):
    """Runs the cases of this file there, and gives their lines back."""
    enter = ["unshare", "--net", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net", "--mount"]
    set_up = f"""set -e
ip link set lo up
for address in {KEYS} {OTHER} {INNER} 192.0.2.1 192.0.2.2 192.0.2.3; do ip address add $address/32 dev lo; done
mount --bind {world.dir}/hosts /etc/hosts
exec "$0" "$1" {world.dir}
"""
    with open(f"{world.dir}/hosts", "w") as file:
        file.write(NAMES)
    return subprocess.run([*enter, "sh", "-c", set_up, sys.executable, os.path.abspath(__file__)], capture_output=True, text=True,
                          timeout=300, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})


def named(world, of, check):
    """The lines of one of the cases below."""
    if not hasattr(world, "strangers"):
        world.strangers = inside(world)
    done = world.strangers
    lines = re.findall(r"^(ok  |FAIL) (\w+): (.*)$", done.stdout, re.M)
    mine = [(good == "ok  ", text) for good, name, text in lines if name == of]
    check("the namespace stands, and all of it ran", done.returncode == 0 and mine, done.stdout + done.stderr)
    for good, text in mine:
        check(text, good, done.stdout)


def key_sets(check, world):
    """key sets: keys are fetched from where a token says, once, and from nowhere that is not the public internet"""
    named(world, "sets", check)


def rates(check, world):
    """addresses: strangers register and fail a few times from each; others are not held up by them"""
    named(world, "rates", check)


ALL = [key_sets, rates]


# From here on: inside.

class Sets(http.server.ThreadingHTTPServer):
    """JWK sets over TLS, and who asked for what."""
    daemon_threads = True

    def __init__(self, address, context):
        self.sets, self.asked = {}, []
        super().__init__((address, 443), Handler)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(f"{self.headers['Host']}{self.path}")
        if self.headers["Host"] == "moved.example":
            self.send_response(302)
            self.send_header("Location", f"https://keys.example/host")
            self.end_headers()
            return
        body = json.dumps({"keys": self.server.sets.get(self.path, [])}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/jwk-set+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def certificates(folder):
    """An authority and a certificate for all the names."""
    names = "keys agents moved mixed private inner".split()
    subject = ",".join(f"DNS:{name}.example" for name in names)
    script = f"""set -e; cd {folder}
openssl req -x509 -newkey ed25519 -nodes -keyout ca.key -out ca.pem -subj /CN=Test -days 2 2>/dev/null
openssl req -newkey ed25519 -nodes -keyout server.key -out server.csr -subj /CN=keys.example 2>/dev/null
printf 'subjectAltName={subject}\\nextendedKeyUsage=serverAuth\\n' > server.ext
openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile server.ext 2>/dev/null
"""
    subprocess.run(["sh", "-c", script], check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/server.pem", f"{folder}/server.key")
    return context


def published(host, name="keys.example", kid="h1"):
    """What a host's token says that publishes its key."""
    return {"header": {"kid": kid}, "host_public_key": None, "host_jwks_url": f"https://{name}/host"}


def sets(check, world):
    from world import Agent, Gateway, Host, Key, call
    context = certificates(world.dir)
    os.environ["SSL_CERT_FILE"] = f"{world.dir}/ca.pem"
    there, inner, local = [Sets(address, context) for address in (KEYS, INNER, "127.0.0.1")]
    with Gateway(world) as gateway:
        host, key = Host(gateway.url), Key()
        there.sets = {"/host": [{**host.key.jwk(), "kid": "h1"}], "/agent": [{**key.jwk(), "kid": "a1"}]}
        agent_key = {"agent_jwks_url": "https://agents.example/agent", "agent_kid": "a1"}
        register = lambda said, name="one": call(f"{gateway.url}/agentwall/agent/register", "POST", said,
                                                 {"name": name, "capabilities": ["read"]})
        answer = register(host.token(**published(host), **agent_key))
        check("a host and an agent register with published keys", answer.status == 200, answer)
        gateway.approve(answer.json)
        agent = Agent(host, answer.json["agent_id"], key)
        check("the agent calls", gateway.call(agent, "/a", header={"kid": "a1"}).status == 200)
        check("each set was asked for once", sorted(there.asked) == ["agents.example/agent", "keys.example/host"], there.asked)
        for number in range(20):
            gateway.call(agent, "/a", header={"kid": f"x{number}"})
        check("names of keys that are not there change nothing", len(there.asked) == 2, there.asked)
        check("and the agent goes on", gateway.call(agent, "/a", header={"kid": "a1"}).status == 200)
        for name in ["private.example", "mixed.example", "inner.example", "localhost", "127.0.0.1", INNER, "[::1]", "nowhere.example"]:
            stranger = Host(gateway.url)
            answer = register(stranger.token(**published(stranger, name), agent_key=Key()))
            check(f"a set at {name} is not fetched", (answer.status, answer.error()) == (401, "invalid_jwt"), answer)
        check("nobody there was asked", not inner.asked and not local.asked and len(there.asked) == 2,
              [inner.asked, local.asked, there.asked])
        stranger = Host(gateway.url)
        answer = register(stranger.token(**published(stranger, "moved.example"), agent_key=Key()))
        check("a redirect is not followed", answer.status == 401 and there.asked[2:] == ["moved.example/host"], there.asked)
        other = Host(gateway.url)
        answer = register(other.token(**published(other), agent_key=Key()))
        check("a key that is not the set's is refused", answer.status == 401, answer)


class From(http.client.HTTPConnection):
    def __init__(self, address, port):
        super().__init__("192.0.2.1", port, timeout=15, source_address=(address, 0))


def rates_(check, world):
    from client import Answer
    from world import Gateway, Host, Key, free_port
    port = free_port()
    gateway = Gateway(world)
    gateway.command[gateway.command.index("--listen") + 1] = f"0.0.0.0:{port}"
    gateway.command += ["--public", f"http://192.0.2.1:{port}"]
    gateway.url = f"http://192.0.2.1:{port}"

    def ask(address, path, method="GET", token=None, body=None):
        connection = From(address, port)
        head = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request(method, path, json.dumps(body) if body else None, {**head, "Content-Type": "application/json"})
        return Answer(connection.getresponse())

    def register(address):
        return ask(address, "/agentwall/agent/register", "POST", Host(gateway.url).token(agent_key=Key()), {"name": "one"})

    with gateway:
        found = [register("192.0.2.2").status for _ in range(6)]
        check("five new hosts of an address register, the sixth does not", found == [200] * 5 + [429], found)
        answer = register("192.0.2.2")
        check("it is told when to come again", int(answer.headers["retry-after"]) > 3000, answer.headers)
        check("another address registers", register("192.0.2.3").status == 200)
        check("what needs no token is answered", ask("192.0.2.2", "/agentwall/health").status == 200)
        found = [ask("192.0.2.2", "/a").status for _ in range(31)]
        check("thirty requests without a token are told so, the next is not read", found == [401] * 30 + [429], found)
        check("another address is", ask("192.0.2.3", "/a").status == 401)


def main(folder):
    root = os.path.dirname(os.path.dirname(HERE))
    sys.path[:0] = [HERE, f"{root}/tests/conformance/agent-auth"]
    from world import World
    for name, case in [("sets", sets), ("rates", rates_)]:
        def check(what, good, found="", name=name):
            print(f"{'ok  ' if good else 'FAIL'} {name}: {what}")
            if not good:
                print(f"     {str(found)[:800]}")
        with World() as world:
            case(check, world)


if __name__ == "__main__":
    main(sys.argv[1])
