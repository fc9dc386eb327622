"""The fleet: named sessions on working directories, driven by a manager through the Switchboard."""
