"""The durable store: the database behind the fleet's ledger and the runtime's journal contract."""
