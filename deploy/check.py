"""Builds the image on a bare Debian and runs compose.yaml's services in it, where no container engine runs.

As root on Debian, with the project's ``deploy`` extra::

    apt-get install --no-install-recommends buildah debootstrap
    pip install -e '.[deploy]'
    python deploy/check.py [--ca-certificates own.pem]

1. Lint: hadolint; the Kubernetes files against Kubernetes' schemas and the Dask operator's.
2. Build: debootstrap makes the base image, buildah (chroot isolation) runs the Dockerfile on it.
3. Run: each of compose.yaml's services is a process in the image's tree, in a namespace without any network but its own
   loopback, as the image's user, on a read-only file system. Moto runs beside them, over TLS with a certificate of an
   authority that only a mounted bundle knows. The example's job has to be done, and SIGTERM to end the service.
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
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
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
    """Run a command; return what it prints."""
    print("+", shlex.join(word if len(word) < 200 else "…" for word in words), flush=True)
    return subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def lint() -> None:
    """Hold the Dockerfile and the Kubernetes files against their rules."""
    import dask_kubernetes
    import jsonschema
    import kubernetes_validate

    run("hadolint", str(DEPLOY / "Dockerfile"))
    crds = Path(dask_kubernetes.__file__).parent / "operator/deployment/helm/dask-kubernetes-operator/crds"
    own = {}
    for path in crds.glob("*.yaml"):
        said = yaml.safe_load(path.read_text())["spec"]
        own[said["names"]["kind"]] = said["versions"][0]["schema"]["openAPIV3Schema"]
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        for thing in yaml.safe_load_all(path.read_text()):
            if thing["kind"] in own:
                jsonschema.validate(thing, own[thing["kind"]])
            else:
                kubernetes_validate.validate(thing, kubernetes_validate.latest_version(), strict=True)
            print(f"{path.name}: {thing['kind']} {thing['metadata']['name']} is valid")


def build(authorities: str) -> None:
    """Make a bare Debian, and the image on it."""
    with tempfile.TemporaryDirectory() as folder:
        run("debootstrap", "--variant=minbase", SUITE, folder)
        container = run("buildah", "from", "scratch").strip()
        run("cp", "-a", f"{folder}/.", run("buildah", "mount", container).strip())
        run("buildah", "commit", "-q", "--rm", container, BASE)
    settings = [f"{name}={os.environ[name]}" for name in ("PIP_INDEX_URL", "PIP_CONSTRAINT") if name in os.environ]
    arguments = [f"BASE_IMAGE=localhost/{BASE}", f"CA_CERTIFICATES={authorities}", *settings]
    given = [word for each in arguments for word in ("--build-arg", each)]
    file = str(DEPLOY / "Dockerfile")
    out = run("buildah", "bud", "--isolation", "chroot", *given, "-f", file, "-t", IMAGE, str(DEPLOY.parent))
    assert "Successfully tagged" in out, out


class Services:
    """compose.yaml's services as processes in the image's tree; PID 1 of a namespace of their own."""

    def __init__(self, tree: Path, place: Path, bundle: Path) -> None:
        self.tree, self.place, self.bundle = tree, place, bundle
        self.said = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
        config = json.loads(run("buildah", "inspect", "--type", "image", f"localhost/{IMAGE}"))["OCIv1"]["config"]
        self.user, self.environment = config["User"], dict(each.split("=", 1) for each in config["Env"])

    def mount(self) -> None:
        """Make the tree read-only but for /tmp, with the services' names and the bundle in it."""
        hosts = self.place / "hosts"
        hosts.write_text("127.0.0.1 localhost " + " ".join(self.said) + "\n")
        (self.tree / "try").mkdir(exist_ok=True)
        (self.tree / "etc/hosts").touch()
        run("mount", "--bind", str(self.tree), str(self.tree))
        for kind, target in (("proc", "proc"), ("tmpfs", "tmp")):
            run("mount", "-t", kind, kind, str(self.tree / target))
        for source, target in (("/dev", "dev"), (DEPLOY / "try", "try"), (hosts, "etc/hosts")):
            run("mount", "--bind", str(source), str(self.tree / target))
        run("mount", "-t", "tmpfs", "-o", "size=64m,mode=1777", "tmpfs", str(self.tree / "dev/shm"))  # as engines do
        run("mount", "--bind", str(hosts), "/etc/hosts")  # for this process too
        run("mount", "-o", "remount,ro,bind", str(self.tree))

    def start(self, command: list[str], **options: Any) -> subprocess.Popen[str]:
        """Start a command as the image's user, with compose.yaml's settings, AWS behind TLS."""
        environment = self.environment | self.said["setup"]["environment"] | {"AWS_ENDPOINT_URL": URL}
        words = ["setpriv", "--no-new-privs", "chroot", f"--userspec={self.user}", str(self.tree)]
        words += ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), *command]
        return subprocess.Popen(words, text=True, **options)

    def call(self, command: list[str], expect: int = 0) -> str:
        """Run a command to its end."""
        print("+", *command, flush=True)
        process = self.start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        out = process.communicate(timeout=120)[0]
        assert process.returncode == expect, (process.returncode, out)
        return str(out)

    def trust(self) -> None:
        """Mount the bundle that knows the authority, over the image's."""
        run("mount", "--bind", str(self.bundle), str(self.tree / "opt/geotile/ca.pem"))

    def up(self) -> dict[str, subprocess.Popen[str]]:
        """Start what stays, each as soon as what it needs is well."""
        running = {}
        for name in ("model", "scheduler", "worker", "service"):
            for _ in range(self.said[name].get("deploy", {}).get("replicas", 1)):
                print("+", *self.said[name]["command"], flush=True)
                running[name] = self.start(self.said[name]["command"])
            if "healthcheck" in self.said[name]:
                test = self.said[name]["healthcheck"]["test"][1:]
                until(lambda test=test: self.start(test, stderr=subprocess.DEVNULL).wait() == 0)
        return running


def until(condition: Any, seconds: float = 60.0) -> Any:
    """Wait for something."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.5)
    raise TimeoutError(f"not within {seconds} s")


def certified(place: Path) -> tuple[Path, list[str]]:
    """Return a bundle of an own authority, and moto's arguments for a certificate of it."""
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(place / "ca.pem"))
    certificate = authority.issue_cert("moto", "localhost")
    certificate.private_key_pem.write_to_path(str(place / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(place / "cert.pem"))
    return place / "ca.pem", ["--ssl", "--ssl-cert", str(place / "cert.pem"), "--ssl-key", str(place / "key.pem")]


def inside(tree: Path) -> None:
    """Run the services: in namespaces that end with this process, and they with them."""
    run("ip", "link", "set", "lo", "up")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        place.chmod(0o755)
        bundle, tls = certified(place)
        services = Services(tree, place, bundle)
        services.mount()
        moto = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "5000", *tls]
        with open(place / "moto.log", "w") as log:
            subprocess.Popen(moto, stdout=log, stderr=log)
        trusting = ssl.create_default_context(cafile=str(bundle))

        found = Session().create_client(
            "s3", "us-east-1", endpoint_url=URL, verify=str(bundle), aws_access_key_id="a", aws_secret_access_key="b"
        )

        def stored() -> bytes | None:
            with suppress(found.exceptions.NoSuchKey):
                return bytes(found.get_object(Bucket="found", Key="first/scene.tif.geojson")["Body"].read())
            return None

        until(lambda: not trouble(f"{URL}/moto-api/", trusting))
        refused = services.call(["python", "/try/setup.py"], expect=1)
        assert "CERTIFICATE_VERIFY_FAILED" in refused, refused
        print("without the bundle: refused, as it should be")
        services.trust()
        print(services.call(["python", "/try/setup.py"]))
        print(services.call(["geotile", "plan", "s3://imagery/scene.tif", "--tile-size", "512"]))  # GDAL over TLS
        assert "certificate" not in services.call(["geotile", "check", f"{URL}/invocations"], expect=1)
        services.call(["sh", "-c", "! touch /x /opt/geotile/x 2> /dev/null && touch /tmp/x && test $(id -u) != 0"])
        services.call(["python", "-c", NITF])
        running = services.up()
        features = json.loads(until(stored))["features"]
        print(f"the job is done: {len(features)} features")
        assert len(features) > 400
        running["service"].send_signal(signal.SIGTERM)
        assert running["service"].wait(60) == 0
        print("SIGTERM ended the service")


def trouble(url: str, trusting: ssl.SSLContext) -> OSError | None:
    """Ask; return what went wrong."""
    try:
        urllib.request.urlopen(url, context=trusting).close()
    except OSError as error:
        return error
    return None


def main() -> None:
    """Lint, build, run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ca-certificates", type=Path, help="PEM of authorities that the package index needs")
    parser.add_argument("--only", choices=("lint", "build", "run"), help="one step of the three")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside is not None:
        inside(args.inside)
        return
    if args.only in (None, "lint"):
        lint()
    if args.only in (None, "build"):
        build(args.ca_certificates.read_text() if args.ca_certificates else "")
    if args.only in (None, "run"):
        container = run("buildah", "from", f"localhost/{IMAGE}").strip()
        try:
            tree = run("buildah", "mount", container).strip()
            spaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
            subprocess.run([*spaces, sys.executable, __file__, "--inside", tree], check=True)
        finally:
            run("buildah", "rm", container)


if __name__ == "__main__":
    main()
