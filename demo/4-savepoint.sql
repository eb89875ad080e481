-- An order is created, a gift for it undone.
-- What is rolled back to a savepoint takes its message along; the rest commits.
BEGIN;
INSERT INTO orders.purchase_order VALUES (3, 'Cleo');
INSERT INTO orders.order_line VALUES (3, 1, 'spoon');
SELECT outbox.emit(:'topic', order_id, document, headers => '{"type": "OrderCreated"}')
  FROM orders.order_document WHERE order_id = 3;
SAVEPOINT gift;
INSERT INTO orders.order_line VALUES (3, 2, 'gift wrap');
SELECT outbox.emit(:'topic', order_id, document, headers => '{"type": "LineAdded"}')
  FROM orders.order_document WHERE order_id = 3;
ROLLBACK TO SAVEPOINT gift;
COMMIT;
