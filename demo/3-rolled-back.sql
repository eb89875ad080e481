-- An order is not created after all.
-- No order, no message.
BEGIN;
INSERT INTO orders.purchase_order VALUES (2, 'Bob');
INSERT INTO orders.order_line VALUES (2, 1, 'kettle');
SELECT outbox.emit(:'topic', order_id, document, headers => '{"type": "OrderCreated"}')
  FROM orders.order_document WHERE order_id = 2;
ROLLBACK;
