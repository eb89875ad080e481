-- The tables of the story, and the document about an order that its messages carry.

CREATE EXTENSION outbox;

CREATE SCHEMA orders;

CREATE TABLE orders.purchase_order (
    order_id bigint PRIMARY KEY,
    customer text NOT NULL
);

CREATE TABLE orders.order_line (
    order_id bigint REFERENCES orders.purchase_order ON DELETE CASCADE,
    line     int,
    item     text NOT NULL,
    status   text NOT NULL DEFAULT 'ordered',
    PRIMARY KEY (order_id, line)
);

CREATE VIEW orders.order_document AS
    SELECT o.order_id,
           jsonb_build_object('customer', o.customer, 'lines', jsonb_object_agg(l.item, l.status)) AS document
    FROM orders.purchase_order AS o JOIN orders.order_line AS l USING (order_id)
    GROUP BY o.order_id;
