"""A real Chromium, driven over its debugging pipe (Chrome DevTools Protocol), with a virtual authenticator."""

import base64
import collections
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

BINARY = shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """One headless browser with a profile of its own."""

    def __enter__(self):
        self.profile = tempfile.mkdtemp(prefix="agentwall-chromium-")
        # --remote-debugging-pipe: commands on descriptor 3, answers on 4; there is no port that others could use.
        (down, self.down), (self.up, up) = os.pipe(), os.pipe()
        command = [BINARY, "--headless=new", "--remote-debugging-pipe", "--no-first-run", "--no-sandbox", "--disable-gpu",
                   "--disable-background-networking", "--disable-component-update", "--disable-sync",
                   "--disable-dev-shm-usage", f"--user-data-dir={self.profile}", "about:blank"]

        # Away from the numbers that they get in the browser.
        low, (down, up) = (down, up), [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (down, up)]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, close_fds=False,
                                        preexec_fn=lambda: (os.dup2(down, 3), os.dup2(up, 4)))
        for one in (*low, down, up):
            os.close(one)
        self.next, self.read, self.answers = 1, b"", {}
        self.events = collections.deque(maxlen=2000)
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        os.close(self.down)
        os.close(self.up)
        shutil.rmtree(self.profile, ignore_errors=True)

    def send(self, method, params=None, session=None, timeout=30):
        number, self.next = self.next, self.next + 1
        message = {"id": number, "method": method, "params": params or {}}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.down, data):]
        end = time.monotonic() + timeout
        while number not in self.answers:
            self.pump(end)
        answer = self.answers.pop(number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']}")
        return answer["result"]

    def pump(self, end):
        ready, _, _ = select.select([self.up], [], [], max(0, end - time.monotonic()))
        if not ready:
            raise AssertionError("the browser does not answer")
        data = os.read(self.up, 1 << 20)
        if not data:
            raise AssertionError("the browser ended")
        self.read += data
        *whole, self.read = self.read.split(b"\0")
        for text in whole:
            message = json.loads(text)
            if "id" in message:
                self.answers[message["id"]] = message
            else:
                self.events.append(message)

    def tab(self, url="about:blank"):
        target = self.send("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.send("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        tab = Tab(self, session)
        for domain in ["Page", "Runtime", "Network", "Log"]:
            tab.send(f"{domain}.enable")
        if url != "about:blank":
            tab.go(url)
        return tab


class Tab:
    def __init__(self, browser, session):
        self.browser, self.session, self.authenticator = browser, session, None

    def send(self, method, params=None, timeout=30):
        return self.browser.send(method, params, self.session, timeout)

    def go(self, url):
        # By way of an empty page: where only what is behind # differs nothing is loaded, and a page that loads itself again in
        # that moment would win. It has to be gone before the next one is asked for.
        self.load("about:blank", "location.href === 'about:blank'")
        self.load(url, "document.readyState === 'complete' && location.href !== 'about:blank'")

    def load(self, url, there):
        for last in [False, False, True]:
            answer = self.send("Page.navigate", {"url": url})
            try:
                return self.wait(there, 20 if last else 10)
            except AssertionError:
                if last:
                    raise AssertionError(f"{url} never came: {answer}\n{self.text()}") from None

    def js(self, expression):
        answer = self.send("Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True,
                                                "userGesture": True})
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression, seconds=20):
        """Until it is true. Pages come and go meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if self.js(f"!!({expression})"):
                    return True
            except AssertionError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"never: {expression}\n{self.text()}")

    def text(self):
        try:
            return self.js("document.body.innerText")
        except AssertionError as error:
            return str(error)

    def click(self, selector):
        """As a person does: where it is on the screen."""
        where = self.js(f"""(() => {{ const part = document.querySelector({json.dumps(selector)});
            part.scrollIntoView({{block: 'center'}}); const r = part.getBoundingClientRect();
            return [r.left + r.width / 2, r.top + r.height / 2]; }})()""")
        for kind in ["mousePressed", "mouseReleased"]:
            self.send("Input.dispatchMouseEvent", {"type": kind, "x": where[0], "y": where[1], "button": "left",
                                                   "clickCount": 1})

    def type(self, selector, text):
        self.js(f"document.querySelector({json.dumps(selector)}).select()")
        self.send("Input.insertText", {"text": text})

    def passkeys(self, verified=True):
        """An authenticator in this tab that always says yes; `verified` is whether it knows who the person is."""
        self.send("WebAuthn.enable")
        options = {"protocol": "ctap2", "transport": "internal", "hasResidentKey": True, "hasUserVerification": True,
                   "isUserVerified": verified, "automaticPresenceSimulation": True}
        self.authenticator = self.send("WebAuthn.addVirtualAuthenticator", {"options": options})["authenticatorId"]

    def verified(self, verified):
        self.send("WebAuthn.setUserVerified", {"authenticatorId": self.authenticator, "isUserVerified": verified})

    def credentials(self):
        return self.send("WebAuthn.getCredentials", {"authenticatorId": self.authenticator})["credentials"]

    def has(self, credentials):
        for credential in credentials:
            self.send("WebAuthn.addCredential", {"authenticatorId": self.authenticator, "credential": credential})

    def screenshot(self, path, width=1000, height=900, scheme="light", mobile=False):
        self.send("Emulation.setDeviceMetricsOverride", {"width": width, "height": height, "deviceScaleFactor": 1,
                                                         "mobile": mobile})
        self.send("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        data = self.send("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})["data"]
        with open(path, "wb") as file:
            file.write(base64.b64decode(data))

    def violations(self):
        """What the page's policy (CSP) refused, and what else the console of the browser says."""
        found = []
        for event in self.browser.events:
            if event.get("sessionId") == self.session and event["method"] == "Log.entryAdded":
                entry = event["params"]["entry"]
                if entry.get("source") == "security" or "Content Security Policy" in entry.get("text", ""):
                    found.append(entry["text"])
        return found
