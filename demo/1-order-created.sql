-- An order is created.
-- The message that says so is emitted in the same transaction and shares its fate.
BEGIN;
INSERT INTO orders.purchase_order VALUES (1, 'Ada');
INSERT INTO orders.order_line VALUES (1, 1, 'teapot'), (1, 2, 'cup');
SELECT outbox.emit(:'topic', order_id, document, headers => '{"type": "OrderCreated"}')
  FROM orders.order_document WHERE order_id = 1;
COMMIT;
