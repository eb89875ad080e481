// Emits through the JDBC driver in the ways that Java programs do. Prints one line per message: what was
// asked for, and the id that came back.

import java.nio.charset.StandardCharsets;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Types;
import java.util.UUID;

public class JdbcEmit {
    interface Binder {
        void bind(PreparedStatement statement) throws SQLException;
    }

    static void emit(Connection connection, String name, String sql, Binder binder) throws SQLException {
        try (PreparedStatement statement = connection.prepareStatement(sql)) {
            binder.bind(statement);
            // More often than the driver's threshold for preparing on the server.
            for (int n = 0; n < 7; n++) {
                try (ResultSet result = statement.executeQuery()) {
                    result.next();
                    System.out.println(name + " " + result.getObject(1, UUID.class));
                }
            }
        }
    }

    public static void main(String[] arguments) throws SQLException {
        String topic = arguments[1];
        try (Connection connection = DriverManager.getConnection(arguments[0])) {
            connection.setAutoCommit(false);
            String three = "SELECT outbox.emit(?, ?, ?)";
            emit(connection, "string", three, s -> {
                s.setString(1, topic);
                s.setString(2, "k");
                s.setString(3, "string");
            });
            emit(connection, "bytes", three, s -> {
                s.setString(1, topic);
                s.setBytes(2, new byte[] {0, (byte) 255});
                s.setBytes(3, "bytes".getBytes(StandardCharsets.UTF_8));
            });
            emit(connection, "long", three, s -> {
                s.setString(1, topic);
                s.setLong(2, 42L);
                s.setString(3, "long");
            });
            emit(connection, "int", three, s -> {
                s.setString(1, topic);
                s.setInt(2, 43);
                s.setString(3, "int");
            });
            emit(connection, "uuid", three, s -> {
                s.setString(1, topic);
                s.setObject(2, UUID.fromString("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"));
                s.setString(3, "uuid");
            });
            emit(connection, "null", three, s -> {
                s.setString(1, topic);
                s.setNull(2, Types.VARCHAR);
                s.setNull(3, Types.VARCHAR);
            });
            emit(connection, "untyped-null", three, s -> {
                s.setString(1, topic);
                s.setObject(2, null);
                s.setObject(3, null);
            });
            emit(connection, "other", three, s -> {
                s.setObject(1, topic, Types.OTHER);
                s.setObject(2, "k", Types.OTHER);
                s.setObject(3, "other", Types.OTHER);
            });
            emit(connection, "jsonb", "SELECT outbox.emit(?, ?, ?::jsonb, ?::jsonb, ?)", s -> {
                s.setString(1, topic);
                s.setString(2, "k");
                s.setString(3, "{\"b\":1,\"a\":2}");
                s.setString(4, "{\"type\": \"T\"}");
                s.setInt(5, 0);
            });
            connection.commit();
            emit(connection, "never", three, s -> {
                s.setString(1, topic);
                s.setString(2, "k");
                s.setString(3, "never");
            });
            connection.rollback();
        }
    }
}
