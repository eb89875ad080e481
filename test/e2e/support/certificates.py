"""Certificate authorities of a test's own, by the openssl program."""

import datetime
from pathlib import Path

from support.processes import run

CONFIG = """
[ca]
default_ca = here
[here]
dir = {directory}
new_certs_dir = $dir
database = $dir/index
rand_serial = yes
unique_subject = no
default_md = sha256
policy = any
copy_extensions = none
[any]
commonName = supplied
[req]
prompt = no
distinguished_name = name
[name]
CN = unused
[extensions]
subjectAltName = {names}
extendedKeyUsage = serverAuth, clientAuth
"""


class Authority:
    """Signs certificates. Each is a PEM file with key and certificate in it, as Kafka and librdkafka read them."""

    def __init__(self, directory):
        self.directory = Path(directory)
        self.directory.mkdir(parents=True)
        (self.directory / "index").touch()
        self.key = self.directory / "ca.key"
        self.certificate = self.directory / "ca.pem"
        run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", self.key, "-out", self.certificate, "-days", "2", "-subj", f"/CN={self.directory.name}",
             "-addext", "basicConstraints=critical,CA:TRUE"])  # fmt: skip

    def issue(self, name, hosts=("localhost",), expired=False):
        """Path of a PEM file for a subject with that common name, valid since a day, and until tomorrow."""
        config, key, request, certificate, both = (
            self.directory / f"{name}.{kind}" for kind in ("conf", "key", "csr", "crt", "pem")
        )
        config.write_text(
            CONFIG.format(directory=self.directory, names=", ".join(f"DNS:{host}" for host in hosts))
        )
        run(["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
             "-keyout", key, "-out", request, "-subj", f"/CN={name}", "-config", config])  # fmt: skip
        now = datetime.datetime.now(datetime.timezone.utc)
        end = now + (datetime.timedelta(minutes=-5) if expired else datetime.timedelta(days=1))
        run(["openssl", "ca", "-batch", "-notext", "-config", config, "-extensions", "extensions", "-cert",
             self.certificate, "-keyfile", self.key, "-in", request, "-out", certificate,
             "-startdate", f"{now - datetime.timedelta(days=1):%y%m%d%H%M%SZ}",
             "-enddate", f"{end:%y%m%d%H%M%SZ}"])  # fmt: skip
        both.write_text(key.read_text() + certificate.read_text())
        return both
