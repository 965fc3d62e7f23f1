#!/usr/bin/env python3
"""A scripted model: speaks to real agents, thinks nothing.

It answers the two streaming protocols that coding agents use, on loopback, from a list of steps:

* Anthropic Messages  (POST /v1/messages, server-sent events; POST /v1/messages/count_tokens)
* OpenAI Responses    (POST /v1/responses, server-sent events; GET /v1/models)

The agent's own programs execute the tool calls for real; only the "thinking" is scripted, so a test
decides what a hostile or a helpful model would do, and every run does the same.

A step is one of
    {"run": "shell text", "name": "label"}           run a command with the agent's shell tool; with
                                                     "why" it says that first (Messages alone)
    {"write": "/path", "content": "…", "name": …}    write a file with the agent's own edit tool
    {"if": "regex", "then": [steps], "else": [...]}  branch on the text of the previous result
    {"text": "…"}                                    the final answer; ends the turn

Invariants: the server keeps no place in the script. An agent sends its whole conversation with each
request, so the place follows from the results in it; retries and parallel side requests (titles,
quota, token counts) cannot push the script out of step. Every tool result is recorded once.

Run alone:  model_server.py SCENARIO.json [--port N] [--transcript FILE.jsonl]
"""

import argparse
import gzip
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Script:
    """The steps, and which one comes next for a conversation."""

    def __init__(self, steps):
        self.steps = list(steps)

    def walk(self, results):
        """Consumes one result text per tool step; returns (next step, pairs of (step, result))."""
        done, queue, last = [], list(self.steps), ""
        results = list(results)
        while queue:
            step = queue.pop(0)
            if "if" in step:
                branch = "then" if re.search(step["if"], last) else "else"
                queue = list(step.get(branch, [])) + queue
            elif "text" in step:
                return step, done
            elif results:
                last = results.pop(0)
                done.append((step, last))
            else:
                return step, done
        return {"text": "Done."}, done


class Transcript:
    """What the agent asked and what its tools returned, in memory and as JSON lines."""

    def __init__(self, path=None):
        self.lock = threading.Lock()
        self.requests, self.results, self._seen = [], [], set()
        self._file = open(path, "a", encoding="utf-8") if path else None

    def request(self, entry):
        with self.lock:
            self.requests.append(entry)
            self._line({"kind": "request", **entry})

    def result(self, key, step, text, is_error):
        with self.lock:
            if key in self._seen:
                return
            self._seen.add(key)
            entry = {"name": step.get("name"), "step": step, "text": text, "is_error": is_error}
            self.results.append(entry)
            self._line({"kind": "tool_result", **entry})

    def text_of(self, name):
        """The result of the step with this name, or None where the agent never ran it."""
        with self.lock:
            for entry in self.results:
                if entry["name"] == name:
                    return entry["text"]
        return None

    def whole(self):
        """Everything that reached the model, for "this secret is nowhere in it" assertions."""
        with self.lock:
            return "\n".join(r["body"] for r in self.requests)

    def _line(self, entry):
        if self._file:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A client that breaks off, or whose handshake fails, is no error of the test."""


class ModelServer:
    """The server; `port` is known after construction. Use as a context manager."""

    def __init__(self, steps, transcript_path=None, port=0, host="127.0.0.1", tls=None):
        self.script = Script(steps)
        self.transcript = Transcript(transcript_path)
        handler = type("Handler", (_Handler,), {"server_state": self})
        self.httpd = _Server((host, port), handler)
        self.httpd.daemon_threads = True
        if tls:
            # The handshake is made by the thread of the connection.
            self.httpd.socket = tls.wrap_socket(self.httpd.socket, server_side=True,
                                                do_handshake_on_connect=False)
        self.port = self.httpd.server_address[1]

    def __enter__(self):
        threading.Thread(target=self.httpd.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.httpd.shutdown()
        self.httpd.server_close()


# ---------------------------------------------------------------- Anthropic Messages

def plain(content):
    """The text of a content value: a string, or a list of blocks."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(plain(b.get("text", "")) for b in content if isinstance(b, dict))
    return "" if content is None else json.dumps(content)


def anthropic_results(messages):
    """(tool_use_id, text, is_error) of every result, in the order of the conversation."""
    out = []
    for message in messages:
        if isinstance(message.get("content"), list):
            for block in message["content"]:
                if block.get("type") == "tool_result":
                    out.append((block.get("tool_use_id"), plain(block.get("content")),
                                bool(block.get("is_error"))))
    return out


def anthropic_call(step):
    """The tool name and input of Claude Code's tools for a step."""
    if "run" in step:
        return "Bash", {"command": step["run"], "description": step.get("name", "step"),
                        "timeout": 300000}
    return "Write", {"file_path": step["write"], "content": step["content"]}


def anthropic_events(model, blocks, stop, serial):
    """The event stream of one assistant message."""
    usage = {"input_tokens": 100, "output_tokens": 20,
             "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
    return [
        {"type": "message_start", "message": {
            "id": f"msg_{serial:024d}", "type": "message", "role": "assistant", "model": model,
            "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}},
        *(event for index, block in enumerate(blocks) for event in block_events(index, block)),
        {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None},
         "usage": {"output_tokens": 20}},
        {"type": "message_stop"},
    ]


def block_events(index, block):
    start = dict(block)
    if block["type"] == "tool_use":
        start["input"] = {}
        delta = {"type": "input_json_delta", "partial_json": json.dumps(block["input"])}
    else:
        start["text"] = ""
        delta = {"type": "text_delta", "text": block["text"]}
    return [
        {"type": "content_block_start", "index": index, "content_block": start},
        {"type": "content_block_delta", "index": index, "delta": delta},
        {"type": "content_block_stop", "index": index},
    ]


# ---------------------------------------------------------------- OpenAI Responses

RUNNING = re.compile(r"Process running with session ID (\d+)")


def openai_results(items):
    """(call_id, text) of every finished tool call; a command that is still running and was polled
    counts as one result. The third value is the session to poll, if the last one still runs."""
    out, joined = [], ""
    key, session = None, None
    for item in items:
        if item.get("type") not in ("function_call_output", "custom_tool_call_output"):
            continue
        text = item.get("output")
        if isinstance(text, dict):
            text = text.get("content", "")
        text = plain(text)
        key = key or item.get("call_id")
        joined += text
        running = RUNNING.search(text)
        if running:
            session = int(running.group(1))
        else:
            out.append((key, joined))
            joined, key, session = "", None, None
    return out, session


def openai_call(step, tools):
    """The item of Codex's tools for a step; what it offers depends on the model's name."""
    names = {t.get("name") for t in tools}
    if "write" in step:
        body = "".join(f"+{line}\n" for line in step["content"].splitlines())
        patch = f"*** Begin Patch\n*** Add File: {step['write']}\n{body}*** End Patch\n"
        if "apply_patch" in names:
            return {"type": "custom_tool_call", "name": "apply_patch", "input": patch}
        step = {"run": f"apply_patch <<'PATCH'\n{patch}PATCH"}
    if "shell_command" in names and "exec_command" not in names:
        return call_item("shell_command", {"command": step["run"], "timeout_ms": 300000})
    return call_item("exec_command", {"cmd": step["run"], "yield_time_ms": 30000})


def call_item(name, arguments):
    return {"type": "function_call", "name": name, "arguments": json.dumps(arguments)}


def openai_events(item, serial):
    ident = f"resp_{serial:024d}"
    usage = {"input_tokens": 100, "input_tokens_details": {"cached_tokens": 0},
             "output_tokens": 20, "output_tokens_details": {"reasoning_tokens": 0},
             "total_tokens": 120}
    return [
        {"type": "response.created", "response": {"id": ident}},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed",
         "response": {"id": ident, "output": [item], "usage": usage}},
    ]


# ---------------------------------------------------------------- HTTP

class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state = None

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._json({})

    def do_GET(self):
        path = self.path.split("?")[0]
        self._record("")
        if path.endswith("/models"):
            return self._json({"object": "list", "data": [], "models": [], "has_more": False})
        return self._json({})

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            raw = gzip.decompress(raw)
        try:
            body = json.loads(raw or b"{}")
        except ValueError:
            self._record(repr(raw[:200]))
            return self._json({"error": {"message": "the body is not JSON"}}, 400)
        self._record(raw.decode("utf-8", "replace"))
        path = self.path.split("?")[0]
        if path.endswith("/count_tokens"):
            return self._json({"input_tokens": 100})
        if path.endswith("/messages"):
            return self._messages(body)
        if path.endswith("/responses"):
            return self._responses(body)
        return self._json({})  # telemetry, quota, feature flags

    def _messages(self, body):
        state = self.server_state
        model = body.get("model", "scripted")
        tools = {t.get("name") for t in body.get("tools") or []}
        serial = len(state.transcript.requests)
        if "Bash" not in tools:  # a title, a topic check, a quota probe
            blocks, stop = [{"type": "text", "text": "Scripted session"}], "end_turn"
        else:
            results = anthropic_results(body.get("messages", []))
            step, done = state.script.walk(text for _, text, _ in results)
            for (key, text, is_error), (past, _) in zip(results, done):
                state.transcript.result(key, past, text, is_error)
            if "text" in step:
                blocks, stop = [{"type": "text", "text": step["text"]}], "end_turn"
            else:
                name, arguments = anthropic_call(step)
                blocks = [{"type": "tool_use", "id": f"toolu_{serial:08d}{len(done):016d}",
                           "name": name, "input": arguments}]
                if "why" in step:
                    blocks.insert(0, {"type": "text", "text": step["why"]})
                stop = "tool_use"
        if body.get("stream"):
            return self._stream(anthropic_events(model, blocks, stop, serial))
        return self._json({"id": f"msg_{serial:024d}", "type": "message", "role": "assistant",
                           "model": model, "content": blocks, "stop_reason": stop,
                           "stop_sequence": None,
                           "usage": {"input_tokens": 100, "output_tokens": 20}})

    def _responses(self, body):
        state = self.server_state
        serial = len(state.transcript.requests)
        tools = body.get("tools") or []
        results, session = openai_results(
            body.get("input") if isinstance(body.get("input"), list) else [])
        step, done = state.script.walk(text for _, text in results)
        for (key, text), (past, _) in zip(results, done):
            state.transcript.result(key, past, text, False)
        if not tools:  # a title or a summary
            step = {"text": "Scripted session"}
        if session is not None:
            item = call_item("write_stdin",
                             {"session_id": session, "chars": "", "yield_time_ms": 30000})
        elif "text" in step:
            item = {"type": "message", "role": "assistant", "id": f"msg_{serial:024d}",
                    "content": [{"type": "output_text", "text": step["text"]}]}
        else:
            item = openai_call(step, tools)
        if "call" in item["type"]:
            item["call_id"] = f"call_{serial:08d}"
        if body.get("stream", True):
            return self._stream(openai_events(item, serial))
        return self._json({"id": f"resp_{serial:024d}", "output": [item]})

    def _record(self, body):
        self.server_state.transcript.request(
            {"time": time.time(), "method": self.command, "path": self.path, "body": body})

    def _json(self, value, status=200):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _stream(self, events):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for event in events:
            data = f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
            self.wfile.flush()
        self.wfile.write(b"0\r\n\r\n")


def main():
    parser = argparse.ArgumentParser(description="A scripted model server on loopback.")
    parser.add_argument("scenario", help="a JSON file: a list of steps")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--transcript", help="write requests and tool results here, as JSON lines")
    options = parser.parse_args()
    with open(options.scenario, encoding="utf-8") as file:
        steps = json.load(file)
    with ModelServer(steps, options.transcript, options.port) as server:
        print(server.port, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
