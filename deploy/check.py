"""Build the image on a bare Debian and run the services of compose.yaml in it, without a container engine.

As root on Debian, with the project's ``deploy`` extra::

    apt-get install --no-install-recommends buildah debootstrap
    pip install -e '.[deploy]'
    python deploy/check.py [--ca-certificates own.pem]

1. Lint: hadolint; the Kubernetes files against Kubernetes' schemas and the Dask operator's.
2. Build: debootstrap makes the base image, buildah (chroot isolation) runs the Dockerfile on it.
3. Audit: pip-audit asks for known vulnerabilities of the packages in the image. Without an answer, such as offline,
   this step is skipped with the reason; ``python deploy/audit.py`` does it for the packages of this Python.
4. Run: each service of compose.yaml is a process in the image's tree, in a namespace whose only network is its own
   loopback interface, as the image's user, on a read-only file system. Moto runs beside them, over TLS with a
   certificate of an authority that only a mounted bundle contains. The example's job must succeed, and SIGTERM must
   stop the service.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml
from audit import audit
from botocore.session import Session

DEPLOY = Path(__file__).parent
SUITE, BASE, IMAGE = "trixie", "geotile-bare-debian", "geotile"
URL = "https://moto:5000"
NITF = """
import numpy as np
from geotile.encoding.encoder import Encoder
from geotile.grid.tile_grid import Window
from geotile.testing.server import decode_tile
tile = np.random.default_rng(0).integers(0, 255, (3, 64, 64), np.uint8)
body = Encoder("NITF", compression="J2K").encode(tile, Window(0, 64, 0, 64))
assert (decode_tile(body) == tile).all() and b"C8" in body[:1000]
"""


def run(*words: str, **options: Any) -> str:
    """Run a command and return its standard output."""
    print("+", shlex.join(word if len(word) < 200 else "…" for word in words), flush=True)
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def lint() -> None:
    """Lint the Dockerfile and validate the Kubernetes files."""
    import dask_kubernetes
    import jsonschema
    import kubernetes_validate

    run("hadolint", str(DEPLOY / "Dockerfile"))
    crds = Path(dask_kubernetes.__file__).parent / "operator/deployment/helm/dask-kubernetes-operator/crds"
    custom_schemas = {}
    for path in crds.glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())["spec"]
        custom_schemas[spec["names"]["kind"]] = spec["versions"][0]["schema"]["openAPIV3Schema"]
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for resource in yaml.safe_load_all(path.read_text()):
            if resource["kind"] in custom_schemas:
                jsonschema.validate(resource, custom_schemas[resource["kind"]])
            else:
                kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)
            print(f"{path.name}: {resource['kind']} {resource['metadata']['name']} is valid")


def build(authorities: str) -> None:
    """Build a bare Debian image, and geotile's image on it."""
    with tempfile.TemporaryDirectory() as folder:
        run("debootstrap", "--variant=minbase", SUITE, folder)
        container = run("buildah", "from", "scratch").strip()
        run("cp", "-a", f"{folder}/.", run("buildah", "mount", container).strip())
        run("buildah", "commit", "-q", "--rm", container, BASE)
    settings = [f"{name}={os.environ[name]}" for name in ("PIP_INDEX_URL", "PIP_CONSTRAINT") if name in os.environ]
    arguments = [f"BASE_IMAGE=localhost/{BASE}", f"CA_CERTIFICATES={authorities}", *settings]
    options = [word for each in arguments for word in ("--build-arg", each)]
    file = str(DEPLOY / "Dockerfile")
    out = run("buildah", "bud", "--isolation", "chroot", *options, "-f", file, "-t", IMAGE, str(DEPLOY.parent))
    assert "Successfully tagged" in out, out


class Services:
    """The services of compose.yaml as processes in the image's tree. This process is PID 1 of their namespace."""

    def __init__(self, tree: Path, place: Path, bundle: Path) -> None:
        self.tree, self.place, self.bundle = tree, place, bundle
        self.services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
        config = json.loads(run("buildah", "inspect", "--type", "image", f"localhost/{IMAGE}"))["OCIv1"]["config"]
        self.user, self.environment = config["User"], dict(each.split("=", 1) for each in config["Env"])

    def mount(self) -> None:
        """Mount the tree read-only except for /tmp, with the host names of the services in it."""
        hosts = self.place / "hosts"
        hosts.write_text("127.0.0.1 localhost " + " ".join(self.services) + "\n")
        (self.tree / "try").mkdir(exist_ok=True)
        (self.tree / "etc/hosts").touch()
        run("mount", "--bind", str(self.tree), str(self.tree))
        for kind, target in (("proc", "proc"), ("tmpfs", "tmp")):
            run("mount", "-t", kind, kind, str(self.tree / target))
        for source, target in (("/dev", "dev"), (DEPLOY / "try", "try"), (hosts, "etc/hosts")):
            run("mount", "--bind", str(source), str(self.tree / target))
        run(
            "mount", "-t", "tmpfs", "-o", "size=64m,mode=1777", "tmpfs", str(self.tree / "dev/shm")
        )  # like container engines
        run("mount", "--bind", str(hosts), "/etc/hosts")  # for this process too
        run("mount", "-o", "remount,ro,bind", str(self.tree))

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command as the image's user, with the settings of compose.yaml and AWS behind TLS."""
        environment = self.environment | self.services["setup"]["environment"] | {"AWS_ENDPOINT_URL": URL}
        words = ["setpriv", "--no-new-privs", "chroot", f"--userspec={self.user}", str(self.tree)]
        words += ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), *command]
        return subprocess.Popen(words, text=True, **options)

    def call(self, command: list[str], expect: int = 0) -> str:
        """Run a command, check its exit status and return its output."""
        print("+", *command, flush=True)
        process = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        out = process.communicate(timeout=120)[0]
        assert process.returncode == expect, (process.returncode, out)
        return str(out)

    def trust(self) -> None:
        """Mount the bundle with the authority over that of the image."""
        run("mount", "--bind", str(self.bundle), str(self.tree / "opt/geotile/ca.pem"))

    def up(self) -> dict[str, subprocess.Popen[str]]:
        """Start the long-running services, each after the previous one is healthy."""
        running = {}
        for name in ("model", "scheduler", "worker", "service"):
            for _ in range(self.services[name].get("deploy", {}).get("replicas", 1)):
                print("+", *self.services[name]["command"], flush=True)
                running[name] = self.start(self.services[name]["command"])
            if "healthcheck" in self.services[name]:
                test = self.services[name]["healthcheck"]["test"][1:]
                until(lambda test=test: self.start(test, stderr=subprocess.DEVNULL).wait() == 0)
        return running


def until(condition: Any, seconds: float = 60.0) -> Any:
    """Wait until a condition is true and return its value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.5)
    raise TimeoutError(f"the condition was not met within {seconds} s")


def issue_certificate(place: Path) -> tuple[Path, list[str]]:
    """Create an authority; return its bundle, and moto's arguments for a certificate of it."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(place / "ca.pem"))
    certificate = authority.issue_cert("moto", "localhost")
    certificate.private_key_pem.write_to_path(str(place / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(place / "cert.pem"))
    return place / "ca.pem", ["--ssl", "--ssl-cert", str(place / "cert.pem"), "--ssl-key", str(place / "key.pem")]


def inside(tree: Path) -> None:
    """Run the services in namespaces that end with this process and end the services with them."""
    run("ip", "link", "set", "lo", "up")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)
        bundle, tls = issue_certificate(place)
        services = Services(tree, place, bundle)
        services.mount()
        moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "5000", *tls]
        with open(place / "moto.log", "w") as log:
            subprocess.Popen(moto, stdout=log, stderr=log)
        trusting = ssl.create_default_context(cafile=str(bundle))

        s3 = Session().create_client(
            "s3", "us-east-1", endpoint_url=URL, verify=str(bundle), aws_access_key_id="a", aws_secret_access_key="b"
        )

        def stored() -> bytes | None:
            with suppress(s3.exceptions.NoSuchKey):
                return bytes(s3.get_object(Bucket="found", Key="first/first.geojson")["Body"].read())
            return None

        until(lambda: not connection_error(f"{URL}/moto-api/", trusting))
        output = services.call(["python", "/try/setup.py"], expect=1)
        assert "CERTIFICATE_VERIFY_FAILED" in output, output
        print("without the bundle the connection is refused, as it should be")
        services.trust()
        print(services.call(["python", "/try/setup.py"]))
        print(services.call(["geotile", "plan", "s3://imagery/scene.tif", "--tile-size", "512"]))  # GDAL over TLS
        assert "certificate" not in services.call(["geotile", "check", f"{URL}/invocations"], expect=1)
        services.call(["sh", "-c", "! touch /x /opt/geotile/x 2> /dev/null && touch /tmp/x && test $(id -u) != 0"])
        services.call(["python", "-c", NITF])
        running = services.up()
        features = json.loads(until(stored))["features"]
        print(f"the job has succeeded: {len(features)} features")
        assert len(features) > 400
        running["service"].send_signal(signal.SIGTERM)
        assert running["service"].wait(60) == 0
        print("SIGTERM stopped the service")


@contextmanager
def image_tree() -> Iterator[str]:
    """Mount the image for the block; yield its folder."""
    container = run("buildah", "from", f"localhost/{IMAGE}").strip()
    try:
        yield run("buildah", "mount", container).strip()
    finally:
        run("buildah", "rm", container)


def connection_error(url: str, trusting: ssl.SSLContext) -> OSError | None:
    """Request a URL; return the error, None if there is none."""
    try:
        urllib.request.urlopen(url, context=trusting).close()
    except OSError as error:
        return error
    return None


def main() -> None:
    """Lint, build, audit and run, or one of the four."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ca-certificates", type=Path, help="PEM file with authorities that the package index needs")
    parser.add_argument("--only", choices=("lint", "build", "audit", "run"), help="run only one of the steps")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside is not None:
        inside(args.inside)
        return
    if args.only in (None, "lint"):
        lint()
    if args.only in (None, "build"):
        build(args.ca_certificates.read_text() if args.ca_certificates else "")
    if args.only in (None, "audit"):
        with image_tree() as tree:
            folders = Path(tree).glob("opt/geotile/lib/python3*/site-packages")
            flaws = [flaw for folder in folders for flaw in audit(str(folder))]
        if flaws:
            sys.exit("\n".join(flaws))
    if args.only in (None, "run"):
        with image_tree() as tree:
            spaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
            subprocess.run([*spaces, sys.executable, __file__, "--inside", tree], check=True)


if __name__ == "__main__":
    main()
