"""A server over standard input and output. Writes each line that reaches it to the file named first; lists the tools of the file
named second, as they are at that moment."""

import json
import sys

seen = open(sys.argv[1], "ab", buffering=0)
for line in sys.stdin.buffer:
    seen.write(line)
    message = json.loads(line)
    if "id" not in message or "method" not in message:
        continue
    result = {}
    name = message.get("params", {}).get("name")
    if name == "twice":
        sys.stdout.write('{"jsonrpc":"2.0","id":%s,"result":{"a":{"b":1,"b":2}}}\n' % json.dumps(message["id"]))
        sys.stdout.flush()
        continue
    if name == "silent":
        continue
    if name == "long":
        sys.stdout.write("x" * (9 << 20))
        sys.stdout.flush()
        continue
    if message["method"] == "tools/list":
        with open(sys.argv[2]) as file:
            result = {"tools": json.load(file)}
    elif message["method"] == "tools/call":
        result = {"content": [{"type": "text", "text": f"did {message['params']['name']}"}]}
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}) + "\n")
    sys.stdout.flush()
sys.exit(7)
