"""The outbox event router of a real Debezium and outbox.attach_debezium(), record for record."""
