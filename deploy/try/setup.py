"""Create what compose.yaml needs in AWS: queues, a topic, buckets and an image. Then submit a request."""

import json
import tempfile

from botocore.session import Session

from geotile.testing import make_scene

session = Session()
s3, sqs, sns = (session.create_client(name) for name in ("s3", "sqs", "sns"))
dead = sqs.create_queue(QueueName="images-dead")["QueueUrl"]
arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
policy = {"deadLetterTargetArn": arn, "maxReceiveCount": 50}
images = sqs.create_queue(QueueName="images", Attributes={"RedrivePolicy": json.dumps(policy)})["QueueUrl"]
sns.create_topic(Name="statuses")
for bucket in ("imagery", "found", "geotile"):
    s3.create_bucket(Bucket=bucket)
with tempfile.TemporaryDirectory() as folder:
    scene = make_scene(f"{folder}/scene.tif", size=4096)
    s3.put_object(Bucket="imagery", Key="scene.tif", Body=scene.path.read_bytes())
request = {
    "jobId": "first",
    "imageUrls": ["s3://imagery/scene.tif"],
    "imageProcessor": {"name": "http://model:8080/invocations", "type": "HTTP_ENDPOINT"},
    "imageProcessorTileSize": 512,
    "imageProcessorTileOverlap": 128,
    "imageProcessorTileFormat": "GTIFF",
    "outputs": [{"type": "S3", "bucket": "found", "prefix": "first"}],
}
sqs.send_message(QueueUrl=images, MessageBody=json.dumps(request))
print("created the scene and submitted a request for it")
