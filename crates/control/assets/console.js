// The console's pages. No page is made here: text from the server is put in as text, and what changes is loaded again.
"use strict";

const main = document.querySelector("main");
const csrf = document.querySelector("meta[name=csrf]")?.content ?? "";
const at = (id) => document.getElementById(id);

// Asks the console; an error has its words.
async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST",
    headers: { "content-type": "application/json", "x-agentwall-csrf": csrf },
    body: JSON.stringify(body),
  };
  const answer = await fetch(path, options);
  const read = await answer.json().catch(() => null);
  if (!answer.ok) throw new Error(read?.detail ?? `the console answered ${answer.status}`);
  return read;
}

function say(text, kind) {
  const said = at("said");
  said.textContent = text;
  said.className = kind;
}

// Runs what a button does; one at a time.
function on(id, act) {
  const button = at(id);
  button?.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await act();
    } catch (error) {
      say(error.message, "bad");
      button.disabled = false;
    }
  });
}

// Passkeys

const assertion = async (options) => {
  const publicKey = PublicKeyCredential.parseRequestOptionsFromJSON(options);
  return (await navigator.credentials.get({ publicKey })).toJSON();
};

on("login", async () => {
  const { ceremony, publicKey } = await ask("/login/start", {});
  await ask("/login/finish", { ceremony, credential: await assertion(publicKey) });
  location.assign("/");
});

on("enrol", async () => {
  const { ceremony, publicKey } = await ask("/enrol/start", { code: location.hash.slice(1) });
  const options = PublicKeyCredential.parseCreationOptionsFromJSON(publicKey);
  const made = await navigator.credentials.create({ publicKey: options });
  await ask("/enrol/finish", { ceremony, credential: made.toJSON() });
  location.assign("/");
});

on("logout", async () => {
  await ask("/logout", {});
  location.assign("/login");
});

// Answers

function scope() {
  const scope = document.querySelector("input[name=scope]:checked").value;
  return scope === "pattern" ? { scope, pattern: at("pattern").value } : { scope };
}

on("approve", async () => {
  const body = { digest: main.dataset.digest, ...scope() };
  const { publicKey } = await ask(`${main.dataset.path}/assertion`, body);
  const answer = await ask(`${main.dataset.path}/approve`, { ...body, assertion: await assertion(publicKey) });
  closed(answer.done, "good");
});

on("reject", async () => {
  const answer = await ask(`${main.dataset.path}/reject`, { reason: at("reason").value || null });
  closed(answer.done, "good");
});

// There is nothing to answer any more.
function closed(text, kind) {
  main.dataset.closed = "yes";
  say(text, kind);
  for (const part of document.querySelectorAll(".answer button, .answer input")) part.disabled = true;
}

// What a pattern would let through

let typed;

function preview() {
  clearTimeout(typed);
  typed = setTimeout(async () => {
    const said = at("pattern-said");
    const list = at("pattern-matches");
    const pattern = at("pattern").value;
    try {
      const seen = await ask(`${main.dataset.path}/pattern?pattern=${encodeURIComponent(pattern)}`);
      if (pattern !== at("pattern").value) return;
      const all = seen.matches.length + seen.others.length;
      said.textContent = seen.valid
        ? `It matches ${seen.matches.length} of ${all} objects that this agent asked for lately, and whatever else fits:`
        : seen.problem;
      list.replaceChildren(...seen.matches.map((text) => {
        const item = document.createElement("li");
        item.textContent = text;
        return item;
      }));
    } catch (error) {
      said.textContent = error.message;
      list.replaceChildren();
    }
  }, 250);
}

for (const choice of document.querySelectorAll("input[name=scope]")) {
  choice.addEventListener("change", () => {
    const box = at("pattern-box");
    if (!box) return;
    box.hidden = choice.value !== "pattern";
    if (!box.hidden) preview();
  });
}
at("pattern")?.addEventListener("input", preview);

// Time that is left, by the console's clock

const skew = Date.now() - Number(main.dataset.now);

function tick() {
  for (const part of document.querySelectorAll("[data-expires]")) {
    const left = Math.max(0, Math.ceil((Number(part.dataset.expires) - Date.now() + skew) / 1000));
    part.textContent = left === 0 ? "no time left" : `${Math.floor(left / 60)}:${String(left % 60).padStart(2, "0")} left`;
    part.classList.toggle("soon", left < 60);
  }
}

if (main.dataset.now) {
  tick();
  setInterval(tick, 1000);
  const events = new EventSource("/api/v1/events");
  events.addEventListener("waiting", (event) => {
    const { waiting, trouble } = JSON.parse(event.data);
    if (main.dataset.page === "list") {
      const now = JSON.stringify(Object.entries(waiting).map((pair) => pair.join(" ")).sort());
      if (now !== JSON.stringify(JSON.parse(main.dataset.shown).sort())) location.reload();
    } else if (main.dataset.page === "question" && !main.dataset.closed) {
      const digest = waiting[main.dataset.id];
      // While somebody cannot be asked, nobody knows whether it still waits.
      const unknown = digest === undefined && trouble.length > 0;
      at("trouble").textContent = unknown ? trouble.join("\n") : "";
      if (unknown) return;
      if (digest === undefined) closed("This question is not open any more: it was answered elsewhere, or its time is over.", "bad");
      else if (digest !== main.dataset.digest) location.reload();
    }
  });
}
