-- A line of it is cancelled.
-- Messages with the same key arrive in the order of their commits.
BEGIN;
UPDATE orders.order_line SET status = 'cancelled' WHERE order_id = 1 AND line = 2;
SELECT outbox.emit(:'topic', order_id, document, headers => '{"type": "LineCancelled"}')
  FROM orders.order_document WHERE order_id = 1;
COMMIT;
