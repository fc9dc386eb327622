"""The fleet for an MCP host: tools made from the catalogue, resources, prompts. Needs the extra `mcp`.

policy.py       what a manager model may do: capabilities, directories, backends, options
tools.py        which operations are tools, under which names, with which limits
shape.py        results cut to what a model's context can hold
resources.py prompts.py      what can be read, and ready-made questions
review.py question.py        the person at the host is asked to decide what waits
server.py       the MCP server over the boards; stdio.py runs it for a host, as a thin bridge to the daemon, on pipes.py
hosts.py        the configuration of the hosts we know
"""
