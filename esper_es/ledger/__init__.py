"""The ledger: an append-only log of facts in SQLite or PostgreSQL.

- `database`: open a log by its URL (`open_database`)
- `recorder`: append and read facts (`SQLAlchemyRecorder`)
- `followers`: read models that trail the log, each fact exactly once (`follow`, `reset`)
- `chain`, `heads`: the hash chain and its proof (`verify_chain`, `heads`, `export_heads`, `parse_heads`)
- `kernel`: the names taken from `eventsourcing`
"""
