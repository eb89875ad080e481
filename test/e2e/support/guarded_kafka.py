"""A real Kafka with a listener for each way to reach it: through a proxy, with TLS, with SASL; and with rights."""

import socket
import struct

from confluent_kafka import Producer
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from support.certificates import Authority
from support.cluster import CANARY
from support.kafka import ROOT, RealKafka, free_port
from support.processes import give_to_server_user, run
from support.proxy import Proxy

PASSWORD = f"{CANARY}-right"
PLAIN = "org.apache.kafka.common.security.plain.PlainLoginModule required"
SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required"
# name: protocol
LISTENERS = {
    "PLAINTEXT": "PLAINTEXT",  # for the tests themselves: anonymous, and may do everything
    "PROXIED": "PLAINTEXT",
    "NAMED": "PLAINTEXT",  # advertised as names, not addresses
    "TLS": "SSL",
    "MUTUAL": "SSL",
    "EXPIRED": "SSL",
    "ROTATED": "SSL",
    "SASL": "SASL_PLAINTEXT",
    "SECURE": "SASL_SSL",
}


class GuardedKafka(RealKafka):
    """`proxy` stands before the listener PROXIED, `tls_proxy` before TLS. `ca` has signed all certificates."""

    name_port = 29092  # of NAMED, in whatever network its name leads to
    name = "broker.outbox.test"

    def __init__(self, directory):
        super().__init__(directory)
        self.ports = {name: free_port() for name in LISTENERS} | {"PLAINTEXT": self.port}
        self.proxy = Proxy(("127.0.0.1", self.ports["PROXIED"]))
        self.tls_proxy = Proxy(("127.0.0.1", self.ports["TLS"]), opaque=True)
        self.ca = Authority(self.directory.with_name("ca"))
        self.other_ca = Authority(self.directory.with_name("other-ca"))
        self.certificates = {
            "broker": self.ca.issue("broker"),
            "expired": self.ca.issue("expired", expired=True),
            "renewed": self.other_ca.issue("broker"),
            "client": self.ca.issue("client"),
        }

    def start(self):
        self.proxy.start()
        self.tls_proxy.start()
        super().start(*self._properties())
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512):
            credential = ScramCredentialInfo(mechanism, 4096)
            users = [UserScramCredentialUpsertion(name, credential, PASSWORD.encode()) for name in ("app", "limited")]
            self._administer("alter_user_scram_credentials", users)
        return self

    def stop(self, remove=False):
        super().stop(remove)
        self.proxy.stop()
        self.tls_proxy.stop()

    def _properties(self):
        places = [f"{name}://127.0.0.1:{port}" for name, port in self.ports.items()]
        advertised = {name: f"localhost:{port}" for name, port in self.ports.items()}
        advertised["PLAINTEXT"] = f"127.0.0.1:{self.port}"
        advertised["PROXIED"] = self.proxied
        advertised["NAMED"] = f"{self.name}:{self.name_port}"
        advertised["TLS"] = self.tls
        properties = {
            "listeners": ",".join([*places, f"CONTROLLER://127.0.0.1:{self.port + 1}"]),
            "advertised.listeners": ",".join(f"{name}://{place}" for name, place in advertised.items()),
            "listener.security.protocol.map": ",".join(
                [*(f"{name}:{protocol}" for name, protocol in LISTENERS.items()), "CONTROLLER:PLAINTEXT"]
            ),
            "inter.broker.listener.name": "PLAINTEXT",
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": self.ca.certificate,
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.certificates["broker"],
            "listener.name.expired.ssl.keystore.location": self.certificates["expired"],
            "listener.name.rotated.ssl.keystore.location": self.certificates["broker"],
            "listener.name.rotated.ssl.keystore.type": "PEM",
            "listener.name.mutual.ssl.client.auth": "required",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS;User:app;User:CN=client",
            # Producers that were idle are forgotten when a test asks for it.
            "producer.id.expiration.check.interval.ms": "500",
        }
        for listener in ("sasl", "secure"):
            prefix = f"listener.name.{listener}"
            properties[f"{prefix}.sasl.enabled.mechanisms"] = "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512"
            properties[f"{prefix}.plain.sasl.jaas.config"] = (
                f'{PLAIN} user_app="{PASSWORD}" user_limited="{PASSWORD}";'
            )
            for mechanism in ("scram-sha-256", "scram-sha-512"):
                properties[f"{prefix}.{mechanism}.sasl.jaas.config"] = f"{SCRAM};"
        return [f"{name}={value}" for name, value in properties.items()]

    @property
    def proxied(self):
        """Bootstrap address of the way through the proxy."""
        return f"{self.proxy.host}:{self.proxy.port}"

    @property
    def tls(self):
        return f"localhost:{self.tls_proxy.port}"

    def at(self, listener):
        return f"localhost:{self.ports[listener]}"

    def _administer(self, command, things):
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for future in getattr(admin, command)(things).values():
            future.result(30)

    def configure_broker(self, **settings):
        """Sets the broker's properties while it runs; None takes one back."""
        self._alter(ConfigResource.Type.BROKER, "1", settings)

    def configure_topic(self, topic, **settings):
        self._alter(ConfigResource.Type.TOPIC, topic, settings)

    def _alter(self, kind, name, settings):
        entries = [
            ConfigEntry(
                option.replace("_", "."),
                None if value is None else str(value),
                incremental_operation=AlterConfigOpType.DELETE if value is None else AlterConfigOpType.SET,
            )
            for option, value in settings.items()
        ]
        self._administer("incremental_alter_configs", [ConfigResource(kind, name, incremental_configs=entries)])

    def allow(self, user, topic):
        """Which includes to see it."""
        self._administer("create_acls", [AclBinding(*self._right(user, topic))])

    def forbid(self, user, topic):
        self._administer("delete_acls", [AclBindingFilter(*self._right(user, topic))])

    @staticmethod
    def _right(user, topic):
        return (
            ResourceType.TOPIC, topic, ResourcePatternType.LITERAL, f"User:{user}", "*", AclOperation.WRITE,
            AclPermissionType.ALLOW,
        )  # fmt: skip

    def remembered_producers(self, topic, partitions=2):
        """How many producers the broker knows in the topic: a request that no client library at hand can make."""
        name = topic.encode()
        places = b"".join(struct.pack(">i", n) for n in range(partitions))
        body = struct.pack(">hhihB", 61, 0, 7, -1, 0)  # DescribeProducers, version 0, no client's name
        body += bytes([2, len(name) + 1]) + name + bytes([partitions + 1]) + places + b"\0\0"
        with socket.create_connection(("127.0.0.1", self.port), 10) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            length = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))[0]
            answer = connection.recv(length, socket.MSG_WAITALL)
        at, producers = 4 + 1 + 4 + 1 + 1 + len(name) + 1, 0
        for _ in range(partitions):
            error = struct.unpack(">h", answer[at + 4 : at + 6])[0]
            assert error == 0 and answer[at + 6] == 0, f"error {error}"
            count = answer[at + 7] - 1
            producers += count
            # id, epoch, last sequence, last time, coordinator's epoch, start of its transaction, tags
            at += 8 + count * (8 + 4 + 4 + 8 + 4 + 8 + 1) + 1
        return producers

    def limit(self, bytes_per_second):
        """How much each client may produce, by the broker's quota; None: as much as it likes."""
        run([ROOT / "scripts/kafka", "quota", "--dir", self.directory, bytes_per_second or "none"])

    def throttles(self, client_id, topic):
        """Whether whoever calls himself so is over the quota: a message of ours under his name is told."""
        held_back = []
        producer = Producer({
            "bootstrap.servers": self.bootstrap,
            "client.id": client_id,
            "throttle_cb": lambda event: held_back.append(event.throttle_time),
        })  # fmt: skip
        producer.produce(topic, b"")
        producer.flush(30)
        producer.poll(0)
        return any(held_back)


def client_properties(path, **settings):
    """Writes a properties file for the sink, in one step; an underscore stands for the dot."""
    fresh = path.with_suffix(".new")
    fresh.write_text("".join(f"{name.replace('_', '.')}={value}\n" for name, value in settings.items()))
    fresh.chmod(0o600)
    give_to_server_user(fresh)
    fresh.rename(path)
    return path
