"""An MCP server on its standard streams whose one tool asks the user: `python asking_mcp.py`. Speaks plain JSON-RPC.

`ask {"form": SCHEMA, "message": TEXT}` puts a form, `ask {"url": ADDRESS, "message": TEXT}` an address; the tool
returns what the client answered, as JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def say(message: dict[str, Any]) -> None:
    print(json.dumps({"jsonrpc": "2.0", **message}), flush=True)


def main() -> None:
    call: object = None
    for line in sys.stdin:
        message = json.loads(line)
        given = message.get("params") or {}
        match message.get("method"):
            case "initialize":
                told = {"protocolVersion": given["protocolVersion"], "capabilities": {"tools": {}}}
                server = {"name": "asker", "version": "1"}
                say({"id": message["id"], "result": {**told, "serverInfo": server}})
            case "tools/list":
                tool = {"name": "ask", "description": "asks", "inputSchema": {"type": "object"}}
                say({"id": message["id"], "result": {"tools": [tool]}})
            case "tools/call":
                call, asked = message["id"], given["arguments"]
                params = {"message": asked["message"], "requestedSchema": asked.get("form")}
                if "url" in asked:
                    params = {
                        "mode": "url",
                        "message": asked["message"],
                        "url": asked["url"],
                        "elicitationId": "e",
                    }
                say({"id": "asked", "method": "elicitation/create", "params": params})
            case None if message.get("id") == "asked":
                text = json.dumps(message.get("result", message.get("error")))
                say({"id": call, "result": {"content": [{"type": "text", "text": text}]}})
            case None | "notifications/initialized" | "notifications/cancelled":
                pass
            case _ if "id" in message:
                say({"id": message["id"], "error": {"code": -32601, "message": "unknown"}})


if __name__ == "__main__":
    main()
