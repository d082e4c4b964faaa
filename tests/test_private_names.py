"""Names of other libraries that geotile uses although they are private: each test fails when its name goes."""

from datetime import UTC, datetime, timedelta


def test_botocore():
    from botocore.credentials import DeferredRefreshableCredentials, RefreshableCredentials

    expires = datetime.now(UTC) + timedelta(hours=1)
    metadata = {"access_key": "a", "secret_key": "b", "token": "c", "expiry_time": expires.isoformat()}
    made = RefreshableCredentials.create_from_metadata(metadata, lambda: metadata, "test")
    deferred = DeferredRefreshableCredentials(lambda: metadata, "test")
    deferred.get_frozen_credentials()
    assert made._expiry_time == deferred._expiry_time == expires  # geotile.storage.aws.resolve
