-- Runs once, when the container creates its database.
CREATE EXTENSION outbox;
