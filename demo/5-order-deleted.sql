-- The first order is deleted.
-- A payload of NULL is a tombstone: a compacted topic forgets the key.
BEGIN;
DELETE FROM orders.purchase_order WHERE order_id = 1;
SELECT outbox.emit(:'topic', 1, NULL, headers => '{"type": "OrderDeleted"}');
COMMIT;
