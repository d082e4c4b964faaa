"""Real AWS APIs (moto's server, in a process of its own) for a service: a queue, a topic, a stream, buckets."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import boto3
from s3fs import S3FileSystem

REGION = "us-east-1"
SERVER = """
import threading
import time
from moto.kinesis.models import Shard
from moto.server import ThreadedMotoServer

put, lock = Shard.put_record, threading.Lock()

def put_record(*given, **named):  # moto's own loses records that come at once
    with lock:
        return put(*given, **named)

Shard.put_record = put_record
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(3600)
"""


class Aws:
    """What a test asks of AWS."""

    def __init__(self, port: int) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"

    def client(self, name: str) -> Any:
        return boto3.client(
            name, endpoint_url=self.url, region_name=REGION, aws_access_key_id="key", aws_secret_access_key="hush"
        )

    def environment(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hush",
            "AWS_DEFAULT_REGION": REGION, "AWS_REGION": REGION,
        }  # fmt: skip

    def setup(self, name: str) -> None:
        """Make a queue with dead letters, a topic whose messages another queue keeps, a stream, a bucket."""
        sqs, sns = self.client("sqs"), self.client("sns")
        self.dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
        policy = {"deadLetterTargetArn": self.arn(self.dead), "maxReceiveCount": 100}
        self.queue = sqs.create_queue(
            QueueName=name, Attributes={"RedrivePolicy": json.dumps(policy), "VisibilityTimeout": "30"}
        )["QueueUrl"]
        self.heard = sqs.create_queue(QueueName=f"{name}-heard")["QueueUrl"]
        self.topic = sns.create_topic(Name=name)["TopicArn"]
        sns.subscribe(
            TopicArn=self.topic,
            Protocol="sqs",
            Endpoint=self.arn(self.heard),
            Attributes={"RawMessageDelivery": "true"},
        )
        self.bucket, self.stream = f"bucket-{name}", f"stream-{name}"
        self.client("s3").create_bucket(Bucket=self.bucket)
        self.client("kinesis").create_stream(StreamName=self.stream, ShardCount=2)

    def arn(self, queue: str) -> str:
        return self.client("sqs").get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]

    def send(self, request: Any) -> None:
        body = request if isinstance(request, str) else json.dumps(request)
        self.client("sqs").send_message(QueueUrl=self.queue, MessageBody=body)

    def messages(self, queue: str) -> list[dict[str, Any]]:
        """Take all messages out of a queue."""
        sqs, found = self.client("sqs"), []
        while True:
            some = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, MessageAttributeNames=["All"]).get(
                "Messages", []
            )
            if not some:
                return found
            for each in some:
                said = {name: value["StringValue"] for name, value in each.get("MessageAttributes", {}).items()}
                found.append({"body": each["Body"], **said})
                sqs.delete_message(QueueUrl=queue, ReceiptHandle=each["ReceiptHandle"])

    def records(self) -> list[dict[str, Any]]:
        """Return all records of the stream."""
        kinesis, found = self.client("kinesis"), []
        for shard in kinesis.list_shards(StreamName=self.stream)["Shards"]:
            at = kinesis.get_shard_iterator(
                StreamName=self.stream, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
            )["ShardIterator"]
            while some := kinesis.get_records(ShardIterator=at, Limit=10_000):
                found += [{"key": each["PartitionKey"], **json.loads(each["Data"])} for each in some["Records"]]
                at = some["NextShardIterator"]
                if not some["Records"]:
                    break
        return found

    def object(self, key: str) -> bytes:
        return self.client("s3").get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def stored(self) -> list[str]:
        return sorted(each["Key"] for each in self.client("s3").list_objects_v2(Bucket=self.bucket).get("Contents", []))


@contextmanager
def aws() -> Iterator[Aws]:
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        yield Aws(int(server.stdout.readline()))
    finally:
        server.kill()
        server.wait()
        S3FileSystem.clear_instance_cache()  # those in it have this server's address
