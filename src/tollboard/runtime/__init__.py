"""One agent: a supervised state machine with a mailbox, where every call is a prompt. Standard library only."""
