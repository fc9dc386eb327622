"""An MCP server over stdio that starts at once, as it imports nothing: what it does is in the JSON of its argument.

tools       what it offers: names, or whole tools with `inputSchema`
tools_file  a file with such a list, read anew each time the tools are listed
missing     a file: while it is there, the server ends at once
hangs       a file: while it is there, the server starts and says nothing
dies        the name of a tool that ends it
"""

from __future__ import annotations

import json
import os
import sys

PLAIN = {"type": "object", "properties": {}}


def tools() -> list[dict[str, object]]:
    found = plan.get("tools", [])
    if "tools_file" in plan:
        with open(plan["tools_file"]) as file:
            found = json.load(file)
    return [{"name": tool, "inputSchema": PLAIN} if isinstance(tool, str) else tool for tool in found]


def answer(method: str, params: dict[str, object]) -> dict[str, object] | None:
    match method:
        case "initialize":
            return {
                "protocolVersion": params["protocolVersion"], "capabilities": {"tools": {}},
                "serverInfo": {"name": "stub", "version": "1"},
            }  # fmt: skip
        case "ping":
            return {}
        case "tools/list":
            return {"tools": tools()}
        case "tools/call":
            if params["name"] == plan.get("dies"):
                os._exit(3)
            return {
                "content": [{"type": "text", "text": f"{params['name']} of {plan.get('called', 'stub')}"}]
            }
    return None


plan = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
if os.path.exists(plan.get("missing", "/nowhere")):
    sys.exit(3)
for line in sys.stdin:
    message = json.loads(line)
    if "id" not in message or os.path.exists(plan.get("hangs", "/nowhere")):
        continue
    result = answer(message["method"], message.get("params", {}))
    said = {"error": {"code": -32601, "message": "no such method"}} if result is None else {"result": result}
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], **said}), flush=True)
