"""Schema revisions of a log, run by alembic. Shipped with the package; `open_database` runs them."""
