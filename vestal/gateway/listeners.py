"""Envoy's listener: TLS, HTTP, its limits, and the filters that a request passes."""

from __future__ import annotations

from typing import Any

from vestal.gateway.clients import CLIENT_HEADER
from vestal.gateway.clusters import COMPARE_HEADER, KEEPER, SHADOW_HEADER, socket_address
from vestal.gateway.forms import few_fields
from vestal.gateway.protos import Config, file_source, typed, typed_config
from vestal.gateway.responses import local_replies, worth_a_retry
from vestal.gateway.routes import API_KEYS, BUFFER, FORWARDING, NAME
from vestal.gateway.setup import Setup

TOKEN = "torchserve_token"  # noqa: S105  its name
CERTIFICATE = "certificate"
_REMOVED = (
    "describe",  # TorchServe would answer with the handler's description
    "explain",
    "url_path",
    CLIENT_HEADER,
    COMPARE_HEADER,
    SHADOW_HEADER,
)
"""Request headers that only the gateway or TorchServe may set."""
_HEADER_KB = 32
_HEADER_COUNT = 100
_IDLE_SECONDS = 75
"""Time after which a connection without a request is closed."""
_STREAMS = 100
"""Requests at a time on a connection of HTTP/2."""
_MOST_CALLERS = 10_000
"""Callers whose rate is remembered."""


def listener(setup: Setup) -> Config:
    """Return the listener."""
    chain: dict[str, Any] = {"filters": [_http(setup)]}
    if setup.secrets.certificate is not None:
        chain["transport_socket"] = _tls(setup)
        chain["transport_socket_connect_timeout"] = f"{setup.settings.header_timeout:g}s"
    return {
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": NAME,
        "address": socket_address(setup.settings.address, setup.port),
        "per_connection_buffer_limit_bytes": 1 << 16,
        "filter_chains": [chain],
    }


def api_keys(setup: Setup) -> Config:
    """Return the filter that checks API keys; an update of it leaves connections open."""
    credentials = [{"key": each.key, "client": each.name} for each in setup.secrets.clients or ()]
    return {
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        **typed(
            API_KEYS,
            "extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
            credentials=credentials,
            key_sources=[{"header": "authorization"}, {"header": "x-api-key"}],
            forwarding=FORWARDING,
        ),
    }


def _http(setup: Setup) -> Config:
    settings = setup.settings
    return typed(
        "http",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix=NAME,
        server_header_transformation="PASS_THROUGH",
        use_remote_address=True,
        preserve_external_request_id=True,
        always_set_request_id_in_response=True,  # the ID that the access log and the report name
        request_id_extension={
            "typed_config": typed_config(
                "extensions.request_id.uuid.v3.UuidRequestIdConfig", pack_trace_reason=False
            )
        },
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action="REJECT_REQUEST",
        max_request_headers_kb=_HEADER_KB,
        request_headers_timeout=f"{settings.header_timeout:g}s",
        request_timeout=f"{settings.body_timeout:g}s",
        stream_idle_timeout=f"{settings.response_timeout:g}s",
        common_http_protocol_options={
            "idle_timeout": f"{_IDLE_SECONDS}s",
            "max_headers_count": _HEADER_COUNT,
        },
        http2_protocol_options={
            "max_concurrent_streams": _STREAMS,
            "initial_stream_window_size": 1 << 16,
            "initial_connection_window_size": 1 << 20,
        },
        early_header_mutation_extensions=[
            typed(
                "remove",
                "extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation",
                mutations=[{"remove": name} for name in _REMOVED],
            )
        ],
        rds={"route_config_name": NAME, "config_source": file_source(setup.folder / "routes.json")},
        http_filters=_filters(setup),
        local_reply_config=local_replies(),
        access_log=[_access_log(setup)],
    )


def _filters(setup: Setup) -> list[Config]:
    path = {"name": ":path", "string_match": {"exact": "/ready"}}
    filters = [
        typed(
            "ready",
            "extensions.filters.http.health_check.v3.HealthCheck",
            pass_through_mode=False,
            headers=[path],
            cluster_min_healthy_percentages={KEEPER: {"value": 100}},
        )
    ]
    if setup.secrets.clients is not None:
        source = file_source(setup.folder / "api_keys.json")
        kind = "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth"
        discovery = {"config_source": source, "type_urls": [kind]}
        filters.append({"name": API_KEYS, "config_discovery": discovery})
    if setup.settings.rate_limit is not None:
        filters.append(_rate_limit(setup, setup.settings.rate_limit))
    limit = {"max_request_bytes": setup.max_body}
    filters += [
        # TorchServe gets whole requests, with a Content-Length.
        typed(BUFFER, "extensions.filters.http.buffer.v3.Buffer", **limit),
        few_fields(),
        worth_a_retry(),
    ]
    if setup.secrets.token is not None:
        filters.append(_credential(setup))
    kind = "extensions.filters.http.router.v3.Router"
    filters.append(typed("router", kind, suppress_envoy_headers=True))
    return filters


def _rate_limit(setup: Setup, rate: int) -> Config:
    caller: Config = {"remote_address": {}}
    key = "remote_address"
    if setup.secrets.clients is not None:
        key = "client"
        caller = {"request_headers": {"header_name": CLIENT_HEADER, "descriptor_key": key}}
    bucket = {"max_tokens": rate, "tokens_per_fill": rate, "fill_interval": "1s"}
    always = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    # The requests of all callers together are limited by the number of connections only.
    unlimited = {"max_tokens": 2**31, "tokens_per_fill": 2**31, "fill_interval": "1s"}
    return typed(
        "rate_limit",
        "extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        stat_prefix="rate_limit",
        token_bucket=unlimited,
        filter_enabled=always,
        filter_enforced=always,
        rate_limits=[{"actions": [caller]}],
        descriptors=[{"entries": [{"key": key}], "token_bucket": bucket}],
        max_dynamic_descriptors=_MOST_CALLERS,
    )


def _credential(setup: Setup) -> Config:
    generic = typed(
        "token",
        "extensions.http.injected_credentials.generic.v3.Generic",
        credential={"name": TOKEN, "sds_config": file_source(setup.folder / "token.json")},
        header_value_prefix="Bearer ",
    )
    return typed(
        "credential",
        "extensions.filters.http.credential_injector.v3.CredentialInjector",
        overwrite=True,
        credential=generic,
    )


def _tls(setup: Setup) -> Config:
    source = file_source(setup.folder / "certificate.json")
    return typed(
        "tls",
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        common_tls_context={
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "tls_certificate_sds_secret_configs": [{"name": CERTIFICATE, "sds_config": source}],
        },
    )


def _access_log(setup: Setup) -> Config:
    entry = {
        "time": "%START_TIME%",
        "client": f"%REQ({CLIENT_HEADER})%",
        "address": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "flags": "%RESPONSE_FLAGS%",
        "version": "%UPSTREAM_CLUSTER_RAW%",
        "request_id": "%REQ(X-REQUEST-ID)%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
        "milliseconds": "%DURATION%",
        "torchserve_milliseconds": "%RESPONSE_DURATION%",
    }
    return typed(
        "file",
        "extensions.access_loggers.file.v3.FileAccessLog",
        path=str(setup.access_log),
        log_format={"json_format": entry},
    )
