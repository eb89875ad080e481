// Emits through node-postgres in the ways that its users do. Prints one line per message: what was asked
// for, and the id that came back.

const { Client } = require('pg');

async function main(connectionString, topic) {
    const client = new Client({ connectionString });
    await client.connect();
    const emit = async (name, query) => {
        for (let n = 0; n < 3; n++) {
            const result = await client.query(query);
            console.log(name, result.rows[0].emit);
        }
    };
    const three = 'SELECT outbox.emit($1, $2, $3)';
    await client.query('BEGIN');
    await emit('string', { text: three, values: [topic, 'k', 'string'] });
    await emit('named', { name: 'emit', text: three, values: [topic, 'k', 'named'] });
    await emit('number', { text: three, values: [topic, 42, 'number'] });
    await emit('null', { text: three, values: [topic, null, null] });
    await emit('object', { text: three, values: [topic, 'k', { b: 1, a: [null] }] });
    await emit('bytes', {
        text: 'SELECT outbox.emit($1, $2::bytea, $3::bytea)',
        values: [topic, Buffer.from([0, 255]), Buffer.from('bytes')],
    });
    await emit('jsonb', {
        text: 'SELECT outbox.emit($1, $2::bigint, $3::jsonb, $4, $5)',
        values: [topic, 42, { b: 1, a: 2 }, { type: 'T' }, 0],
    });
    await client.query('COMMIT');
    await client.query('BEGIN');
    await client.query(three, [topic, 'k', 'never']);
    await client.query('ROLLBACK');
    await client.end();
}

main(process.argv[2], process.argv[3]).catch((error) => {
    console.error(error);
    process.exit(1);
});
