"""SQLite behind one small interface: one writer, durable group commits, state and lineage in one transaction."""
