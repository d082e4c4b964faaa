"""The account of Azure's storage that an image lies in, and whether the credentials of the environment are for it."""

from __future__ import annotations

import os

_SECRETS = ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING")


def account_settings(account: str, settings: dict[str, str]) -> dict[str, str]:
    """Return GDAL's settings for an account that a URL names.

    If the environment is set for another account, its credentials are not sent to this one.

    Examples
    --------
    >>> account_settings("images", {})
    {'AZURE_STORAGE_ACCOUNT': 'images'}
    """
    chosen = {"AZURE_STORAGE_ACCOUNT": account} | settings
    if os.environ.get("AZURE_STORAGE_ACCOUNT", account) == account or set(_SECRETS) & set(settings):
        return chosen
    return {"AZURE_NO_SIGN_REQUEST": "YES"} | dict.fromkeys(_SECRETS, "") | chosen
