"""A server of SageMaker's runtime and control plane, and of STS, whose endpoint "planes" holds a model."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

from helpers import crowd
from web_servers import running

from geotile.endpoints.objects import decode_object
from geotile.testing.server import as_collection, decode_tile

ROLE = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
<AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken>
<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials><AssumedRoleUser><Arn>{arn}</Arn><AssumedRoleId>x:y</AssumedRoleId>
</AssumedRoleUser></AssumeRoleResult></AssumeRoleResponse>"""


class Service:
    """The runtime's REST, the control plane's JSON, and STS's query protocol."""

    def __init__(self):
        self.invocations, self.described, self.roles = [], 0, []
        self.status, self.variants, self.answer = "InService", [("blue", 0.9), ("green", 0.1)], None
        self.body = None  # what returns a content type and the bytes of an answer, for the pixels of a tile


def _handler(service):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            assert "AWS4-HMAC-SHA256" in self.headers.get("Authorization", "")
            if self.headers.get("X-Amz-Target") == "SageMaker.DescribeEndpoint":
                service.described += 1
                if service.status == "denied":
                    return self.error(400, "AccessDeniedException", "not you")
                if json.loads(body)["EndpointName"] != "planes":
                    return self.error(400, "ValidationException", "Could not find endpoint")
                variants = [{"VariantName": name, "CurrentWeight": weight} for name, weight in service.variants]
                return self.reply(
                    200,
                    {
                        "EndpointName": "planes",
                        "EndpointArn": "arn",
                        "EndpointConfigName": "c",
                        "EndpointStatus": service.status,
                        "CreationTime": 0,
                        "LastModifiedTime": 0,
                        "ProductionVariants": variants,
                    },
                )
            if self.path == "/":
                asked = parse_qs(body.decode())
                service.roles.append(asked["RoleArn"][0])
                return self.send(200, ROLE.format(arn=asked["RoleArn"][0]).encode(), "text/xml")
            assert self.path == "/endpoints/planes/invocations"
            service.invocations.append((dict(self.headers), len(body)))
            if service.answer is not None:
                answer = service.answer(len(service.invocations))
                if answer is not None:
                    return self.error(*answer)
            if service.body is not None:
                kind, answer = service.body(decode_tile(body))
                return self.send(200, answer, kind)
            return self.reply(200, as_collection(decode_object(crowd(decode_tile(body))).detections))

        def error(self, status, code, message, **more):
            self.send(
                status,
                json.dumps({"__type": code, "Message": message} | more).encode(),
                "application/x-amz-json-1.1",
                {"x-amzn-ErrorType": code},
            )

        def reply(self, status, said):
            self.send(status, json.dumps(said).encode(), "application/json")

        def send(self, status, body, kind, more=None):
            self.send_response(status)
            for name, value in ({"Content-Type": kind, "Content-Length": str(len(body))} | (more or {})).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    return Handler


@contextmanager
def serving(service):
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(service))
    with running(server):
        yield f"http://127.0.0.1:{server.server_port}"
