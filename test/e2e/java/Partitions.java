// Reads keys as hexadecimal, one a line, and prints the partition that Kafka's own client gives each of them.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HexFormat;
import org.apache.kafka.common.utils.Utils;

public class Partitions {
    public static void main(String[] arguments) throws Exception {
        int partitions = Integer.parseInt(arguments[0]);
        BufferedReader keys = new BufferedReader(new InputStreamReader(System.in));
        StringBuilder out = new StringBuilder();
        for (String key = keys.readLine(); key != null; key = keys.readLine()) {
            byte[] bytes = HexFormat.of().parseHex(key);
            out.append(Utils.toPositive(Utils.murmur2(bytes)) % partitions).append('\n');
        }
        System.out.print(out);
    }
}
