"""The names of all settings of a Synapse homeserver.yaml, with the default of each in JSON where that
is needed to tell whether a value changes anything.

Data only: a name that is not here is a slip of the hand; one that is here but not in the table of
`synapse_compat.config_yaml` is reported as not supported, unless its value is the default.  `[]` stands for the items
of a list, `*` or a name in braces for any name.
"""

from __future__ import annotations

import json

_LISTING = """\
modules []
modules[].module
modules[].config
server_name
pid_file null
daemonize false
print_pidfile false
user_agent_suffix null
use_frozen_dicts false
web_client_location null
public_baseurl null
serve_server_wellknown false
extra_well_known_client_content
soft_file_limit 0
presence
presence.enabled true
presence.include_offline_users_on_sync false
presence.last_active_granularity "1m"
presence.sync_online_timeout "30s"
presence.idle_timeout "5m"
require_auth_for_profile_requests false
limit_profile_requests_to_users_who_share_rooms false
include_profile_data_on_invite true
allow_public_rooms_without_auth false
allow_public_rooms_over_federation false
default_room_version "11"
gc_thresholds null
gc_min_interval ["1s", "10s", "30s"]
filter_timeline_limit 100
block_non_admin_invites false
enable_search true
ip_range_blacklist
ip_range_whitelist []
listeners []
listeners[].port
listeners[].tag
listeners[].bind_addresses
listeners[].type
listeners[].tls
listeners[].x_forwarded
listeners[].request_id_header
listeners[].resources
listeners[].resources[].names
listeners[].resources[].compress
listeners[].additional_resources
listeners[].additional_resources.*.module
listeners[].additional_resources.*.config
listeners[].path
listeners[].mode
manhole null
manhole_settings
manhole_settings.username
manhole_settings.password
manhole_settings.ssh_priv_key_path
manhole_settings.ssh_pub_key_path
http_proxy
https_proxy
no_proxy_hosts
matrix_authentication_service
matrix_authentication_service.enabled false
matrix_authentication_service.endpoint "http://localhost:8080"
matrix_authentication_service.force_http2 false
matrix_authentication_service.secret
matrix_authentication_service.secret_path
dummy_events_threshold 10
delete_stale_devices_after null
email
email.smtp_host "localhost"
email.smtp_port null
email.smtp_user null
email.smtp_pass null
email.force_tls false
email.require_transport_security false
email.enable_tls true
email.tlsname
email.notif_from null
email.app_name "Matrix"
email.enable_notifs false
email.notif_for_new_users true
email.notif_delay_before_mail "10m"
email.client_base_url "https://matrix.to"
email.validation_token_lifetime "1h"
email.invite_client_location null
email.subjects
email.subjects.message_from_person_in_room
email.subjects.message_from_person
email.subjects.messages_from_person
email.subjects.messages_in_room
email.subjects.messages_in_room_and_others
email.subjects.messages_from_person_and_others
email.subjects.invite_from_person_to_room
email.subjects.invite_from_person
email.subjects.password_reset "[%(server_name)s] Password reset"
email.subjects.email_validation "[%(server_name)s] Validate your email"
max_event_delay_duration null
user_types
user_types.default_user_type null
user_types.extra_user_types []
admin_contact null
hs_disabled false
hs_disabled_message "Homeserver is currently blocked"
limit_usage_by_mau false
max_mau_value 0
mau_trial_days 0
mau_appservice_trial_days {}
mau_limit_alerting true
mau_stats_only false
mau_limit_reserved_threepids []
mau_limit_reserved_threepids[].medium
mau_limit_reserved_threepids[].address
server_context null
limit_remote_rooms
limit_remote_rooms.enabled false
limit_remote_rooms.complexity 1.0
limit_remote_rooms.complexity_error
limit_remote_rooms.admins_can_join false
require_membership_for_aliases true
allow_per_room_profiles true
max_avatar_size null
allowed_avatar_mimetypes null
redaction_retention_period "7d"
forgotten_room_retention_period null
user_ips_max_age "28d"
request_token_inhibit_3pid_errors false
next_link_domain_whitelist null
templates
templates.custom_template_directory null
retention
retention.enabled false
retention.default_policy
retention.default_policy.min_lifetime null
retention.default_policy.max_lifetime null
retention.allowed_lifetime_min null
retention.allowed_lifetime_max null
retention.purge_jobs null
retention.purge_jobs[].shortest_max_lifetime
retention.purge_jobs[].longest_max_lifetime
retention.purge_jobs[].interval
tls_certificate_path null
tls_private_key_path null
federation_verify_certificates true
federation_client_minimum_tls_version "1"
federation_certificate_verification_whitelist []
federation_custom_ca_list []
federation_domain_whitelist []
federation_whitelist_endpoint_enabled false
federation_metrics_domains []
allow_profile_lookup_over_federation true
allow_device_name_lookup_over_federation false
federation
federation.client_timeout "60s"
federation.max_short_retry_delay "2s"
federation.max_long_retry_delay "60s"
federation.max_short_retries 3
federation.max_long_retries 10
federation.destination_min_retry_interval "10m"
federation.destination_retry_multiplier 2
federation.destination_max_retry_interval "1w"
event_cache_size "10K"
caches
caches.global_factor 0.5
caches.per_cache_factors {}
caches.expire_caches true
caches.cache_entry_ttl "30m"
caches.sync_response_cache_duration "2m"
caches.cache_autotuning
caches.cache_autotuning.max_cache_memory_usage null
caches.cache_autotuning.target_cache_memory_usage null
caches.cache_autotuning.min_cache_ttl null
database
database.name "sqlite3"
database.txn_limit 0
database.allow_unsafe_locale false
database.args
databases {}
databases.*.data_stores
log_config null
rc_message {"per_second": 0.2, "burst_count": 10.0}
rc_message.per_second
rc_message.burst_count
rc_registration {"per_second": 0.17, "burst_count": 3.0}
rc_registration.per_second
rc_registration.burst_count
rc_registration_token_validity {"per_second": 0.1, "burst_count": 5.0}
rc_registration_token_validity.per_second
rc_registration_token_validity.burst_count
rc_login
rc_login.address {"per_second": 0.003, "burst_count": 5.0}
rc_login.address.per_second
rc_login.address.burst_count
rc_login.account {"per_second": 0.003, "burst_count": 5.0}
rc_login.account.per_second
rc_login.account.burst_count
rc_login.failed_attempts {"per_second": 0.17, "burst_count": 3.0}
rc_login.failed_attempts.per_second
rc_login.failed_attempts.burst_count
rc_admin_redaction
rc_admin_redaction.per_second
rc_admin_redaction.burst_count
rc_joins
rc_joins.local {"per_second": 0.1, "burst_count": 10.0}
rc_joins.local.per_second
rc_joins.local.burst_count
rc_joins.remote {"per_second": 0.01, "burst_count": 10.0}
rc_joins.remote.per_second
rc_joins.remote.burst_count
rc_joins_per_room {"per_second": 1.0, "burst_count": 10.0}
rc_joins_per_room.per_second
rc_joins_per_room.burst_count
rc_3pid_validation {"per_second": 0.003, "burst_count": 5.0}
rc_3pid_validation.per_second
rc_3pid_validation.burst_count
rc_invites
rc_invites.per_room {"per_second": 0.3, "burst_count": 10.0}
rc_invites.per_room.per_second
rc_invites.per_room.burst_count
rc_invites.per_user {"per_second": 0.003, "burst_count": 5.0}
rc_invites.per_user.per_second
rc_invites.per_user.burst_count
rc_invites.per_issuer {"per_second": 0.3, "burst_count": 10.0}
rc_invites.per_issuer.per_second
rc_invites.per_issuer.burst_count
rc_third_party_invite {"per_second": 0.2, "burst_count": 10.0}
rc_third_party_invite.per_second
rc_third_party_invite.burst_count
rc_media_create {"per_second": 10.0, "burst_count": 50.0}
rc_media_create.per_second
rc_media_create.burst_count
rc_federation
rc_federation.window_size 1000
rc_federation.sleep_limit 10
rc_federation.sleep_delay 500
rc_federation.reject_limit 50
rc_federation.concurrent 3
rc_presence {"per_user": {"per_second": 0.1, "burst_count": 1.0}}
rc_presence.per_user
rc_presence.per_user.per_second
rc_presence.per_user.burst_count
rc_delayed_event_mgmt {"per_second": 1.0, "burst_count": 5.0}
rc_delayed_event_mgmt.per_second
rc_delayed_event_mgmt.burst_count
rc_reports {"per_second": 1.0, "burst_count": 5.0}
rc_reports.per_second
rc_reports.burst_count
rc_room_creation {"per_second": 0.016, "burst_count": 10.0}
rc_room_creation.per_second
rc_room_creation.burst_count
rc_user_directory {"per_second": 0.016, "burst_count": 200.0}
rc_user_directory.per_second
rc_user_directory.burst_count
federation_rr_transactions_per_room_per_second 50
enable_authenticated_media true
enable_media_repo true
enable_local_media_storage true
media_store_path "media_store"
max_pending_media_uploads 5
unused_expiration_time "24h"
media_storage_providers []
media_storage_providers[].module
media_storage_providers[].store_local
media_storage_providers[].store_remote
media_storage_providers[].store_synchronous
media_storage_providers[].config
media_storage_providers[].config.directory
max_upload_size "50M"
media_upload_limits []
max_image_pixels "32M"
remote_media_download_burst_count "500MiB"
remote_media_download_per_second "87KiB"
prevent_media_downloads_from []
dynamic_thumbnails false
thumbnail_sizes
thumbnail_sizes[].width
thumbnail_sizes[].height
thumbnail_sizes[].method
media_retention
media_retention.local_media_lifetime null
media_retention.remote_media_lifetime null
url_preview_enabled false
url_preview_ip_range_blacklist null
url_preview_ip_range_whitelist []
url_preview_url_blacklist []
max_spider_size "10M"
url_preview_accept_language ["en"]
oembed
oembed.disable_default_providers false
oembed.additional_providers []
recaptcha_public_key null
recaptcha_public_key_path null
recaptcha_private_key null
recaptcha_private_key_path null
enable_registration_captcha false
recaptcha_siteverify_api "https://www.recaptcha.net/recaptcha/api/siteverify"
turn_uris []
turn_shared_secret null
turn_shared_secret_path null
turn_username null
turn_password null
turn_user_lifetime "1h"
turn_allow_guests true
matrix_rtc {}
matrix_rtc.transports []
matrix_rtc.transports[].type
matrix_rtc.transports[].livekit_service_url
enable_registration false
enable_registration_without_verification false
registrations_require_3pid []
disable_msisdn_registration false
allowed_local_3pids null
allowed_local_3pids[].medium
allowed_local_3pids[].pattern
enable_3pid_lookup true
registration_requires_token false
registration_shared_secret null
registration_shared_secret_path null
bcrypt_rounds 12
allow_guest_access false
default_identity_server null
account_threepid_delegates {}
account_threepid_delegates.msisdn
enable_set_displayname true
enable_set_avatar_url true
enable_3pid_changes true
auto_join_rooms []
autocreate_auto_join_rooms true
autocreate_auto_join_rooms_federated true
autocreate_auto_join_room_preset "public_chat"
auto_join_mxid_localpart null
auto_join_rooms_for_guests true
inhibit_user_in_use_error false
allow_underscore_prefixed_registration false
session_lifetime "infinity"
refreshable_access_token_lifetime "5m"
refresh_token_lifetime "infinity"
nonrefreshable_access_token_lifetime "infinity"
ui_auth 0
ui_auth.session_timeout
login_via_existing_session
login_via_existing_session.enabled false
login_via_existing_session.require_ui_auth true
login_via_existing_session.token_timeout "5m"
enable_metrics false
sentry
sentry.dsn null
sentry.environment null
metrics_flags
metrics_flags.known_servers false
report_stats false
report_stats_endpoint "https://matrix.org/report-usage-stats/push"
room_prejoin_state
room_prejoin_state.disable_default_event_types false
room_prejoin_state.additional_event_types []
track_puppeted_user_ips false
app_service_config_files []
track_appservice_user_ips false
use_appservice_legacy_authorization false
macaroon_secret_key null
macaroon_secret_key_path null
form_secret null
form_secret_path null
signing_key_path null
old_signing_keys {}
old_signing_keys.*.key
old_signing_keys.*.expired_ts
key_refresh_interval "1d"
trusted_key_servers [{"server_name": "matrix.org"}]
suppress_key_server_warning false
key_server_signing_keys_path null
saml2_config
saml2_config.idp_name
saml2_config.idp_icon
saml2_config.idp_brand
saml2_config.sp_config null
saml2_config.config_path null
saml2_config.saml_session_lifetime "15m"
saml2_config.user_mapping_provider
saml2_config.user_mapping_provider.module
saml2_config.user_mapping_provider.config
saml2_config.grandfathered_mxid_source_attribute "uid"
saml2_config.attribute_requirements
saml2_config.attribute_requirements[].attribute
saml2_config.attribute_requirements[].value
saml2_config.attribute_requirements[].one_of
saml2_config.idp_entityid null
oidc_providers []
oidc_providers[].idp_id
oidc_providers[].idp_name
oidc_providers[].idp_icon
oidc_providers[].idp_brand
oidc_providers[].discover
oidc_providers[].issuer
oidc_providers[].client_id
oidc_providers[].client_secret
oidc_providers[].client_secret_path
oidc_providers[].client_secret_jwt_key
oidc_providers[].client_secret_jwt_key.key
oidc_providers[].client_secret_jwt_key.key_file
oidc_providers[].client_secret_jwt_key.jwt_header
oidc_providers[].client_secret_jwt_key.jwt_header.alg
oidc_providers[].client_secret_jwt_key.jwt_payload
oidc_providers[].client_auth_method
oidc_providers[].pkce_method
oidc_providers[].id_token_signing_alg_values_supported
oidc_providers[].scopes
oidc_providers[].authorization_endpoint
oidc_providers[].token_endpoint
oidc_providers[].userinfo_endpoint
oidc_providers[].jwks_uri
oidc_providers[].skip_verification
oidc_providers[].user_profile_method
oidc_providers[].redirect_uri
oidc_providers[].additional_authorization_parameters
oidc_providers[].passthrough_authorization_parameters
oidc_providers[].allow_existing_users
oidc_providers[].enable_registration
oidc_providers[].user_mapping_provider
oidc_providers[].user_mapping_provider.module
oidc_providers[].user_mapping_provider.config
oidc_providers[].backchannel_logout_enabled
oidc_providers[].backchannel_logout_ignore_sub
cas_config
cas_config.enabled false
cas_config.idp_name
cas_config.idp_icon null
cas_config.idp_brand null
cas_config.server_url
cas_config.protocol_version null
cas_config.displayname_attribute null
cas_config.required_attributes {}
cas_config.enable_registration true
cas_config.allow_numeric_ids false
cas_config.numeric_ids_prefix "u"
sso
sso.client_whitelist null
sso.update_profile_information false
jwt_config
jwt_config.enabled false
jwt_config.secret
jwt_config.algorithm
jwt_config.subject_claim "sub"
jwt_config.display_name_claim null
jwt_config.issuer null
jwt_config.audiences null
password_config
password_config.enabled true
password_config.localdb_enabled true
password_config.pepper null
password_config.policy
password_config.policy.enabled false
password_config.policy.minimum_length 0
password_config.policy.require_digit false
password_config.policy.require_symbol false
password_config.policy.require_lowercase false
password_config.policy.require_uppercase false
push
push.enabled true
push.include_content true
push.group_unread_count_by_room true
push.jitter_delay "0s"
encryption_enabled_by_default_for_room_type "off"
user_directory
user_directory.enabled true
user_directory.search_all_users false
user_directory.prefer_local_users false
user_directory.exclude_remote_users false
user_directory.show_locked_users false
user_consent
user_consent.template_dir
user_consent.version
user_consent.server_notice_content
user_consent.server_notice_content.msgtype
user_consent.server_notice_content.body
user_consent.send_server_notice_to_guests false
user_consent.block_events_error null
user_consent.require_at_registration
user_consent.policy_name "Privacy Policy"
stats
stats.enabled true
server_notices
server_notices.system_mxid_display_name "Notices"
server_notices.system_mxid_avatar_url null
server_notices.room_name "Server Notices"
server_notices.room_avatar_url null
server_notices.room_topic null
server_notices.auto_join false
enable_room_list_search true
alias_creation_rules null
alias_creation_rules[].user_id
alias_creation_rules[].alias
alias_creation_rules[].room_id
alias_creation_rules[].action
room_list_publication_rules null
room_list_publication_rules[].user_id
room_list_publication_rules[].alias
room_list_publication_rules[].room_id
room_list_publication_rules[].action
default_power_level_content_override {}
forget_rooms_on_leave false
exclude_rooms_from_sync []
exclude_rooms_from_presence []
opentracing
opentracing.enabled false
opentracing.homeserver_whitelist []
opentracing.force_tracing_for_users []
opentracing.jaeger_config {}
worker_replication_secret null
worker_replication_secret_path null
start_pushers true
pusher_instances []
send_federation true
federation_sender_instances []
instance_map {}
stream_writers {}
stream_writers.events
stream_writers.typing
stream_writers.to_device
stream_writers.account_data
stream_writers.receipts
stream_writers.presence
stream_writers.push_rules
stream_writers.device_lists
outbound_federation_restricted_to []
run_background_tasks_on null
update_user_directory_from_worker null
notify_appservices_from_worker null
media_instance_running_background_jobs null
redis
redis.enabled false
redis.host "localhost"
redis.port 6379
redis.path "/tmp/redis.sock"
redis.password null
redis.password_path null
redis.dbid null
redis.use_tls false
redis.certificate_file null
redis.private_key_file null
redis.ca_file null
redis.ca_path null
worker_app
worker_name
worker_listeners []
worker_manhole null
worker_daemonize false
worker_pid_file null
worker_log_config null
background_updates
background_updates.background_update_duration_ms 100
background_updates.sleep_enabled true
background_updates.sleep_duration_ms 1000
background_updates.min_batch_size 1
background_updates.default_batch_size 100
auto_accept_invites
auto_accept_invites.enabled false
auto_accept_invites.only_for_direct_messages false
auto_accept_invites.only_from_local_users false
auto_accept_invites.worker_to_run_on null
server_notices.system_mxid_localpart
default_power_level_content_override.{preset} null
instance_map.{worker_name}.host
instance_map.{worker_name}.port
instance_map.{worker_name}.path
instance_map.{worker_name}.tls false
stream_writers.thread_subscriptions
stream_writers.quarantined_media_changes
account_validity null
account_validity.enabled false
account_validity.period
account_validity.renew_at
enable_ephemeral_messages false
enable_registration_token_3pid_bypass false
cleanup_extremities_with_dummy_events true
invite_3pid_guest false
use_account_validity_in_account_status false
dont_notify_new_devices_for []
spam_checker []
third_party_event_rules null
password_providers []
signing_key
experimental_features.msc4140_max_delayed_events_per_user 100
experimental_features.msc1763_enabled false
experimental_features.msc3026_enabled false
experimental_features.msc3814_enabled false
experimental_features.msc2409_to_device_messages_enabled false
experimental_features.msc3202_transaction_extensions false
experimental_features.msc3983_appservice_otk_claims false
experimental_features.msc3984_appservice_key_query false
experimental_features.msc3720_enabled false
experimental_features.msc2654_enabled false
experimental_features.msc2815_enabled false
experimental_features.msc3391_enabled false
experimental_features.msc3575_enabled true
experimental_features.msc3773_enabled false
experimental_features.msc3664_enabled false
experimental_features.msc3848_enabled false
experimental_features.msc3866 {}
experimental_features.msc3881_enabled false
experimental_features.msc3874_enabled false
experimental_features.msc3890_enabled false
experimental_features.msc3381_polls_enabled false
experimental_features.msc3912_enabled false
experimental_features.msc1767_enabled false
experimental_features.msc4242_enabled false
experimental_features.msc4028_push_encrypted_events false
experimental_features.msc4069_profile_inhibit_propagation false
experimental_features.msc4108_enabled false
experimental_features.msc4108_delegation_endpoint null
experimental_features.msc4370_enabled false
experimental_features.msc4388_mode "off"
experimental_features.msc4133_enabled false
experimental_features.msc4143_enabled false
experimental_features.msc4169_enabled false
experimental_features.msc4210_enabled false
experimental_features.msc4222_enabled false
experimental_features.msc4076_enabled false
experimental_features.msc4277_enabled false
experimental_features.msc4235_enabled false
experimental_features.msc4263_limit_key_queries_to_users_who_share_rooms false
experimental_features.msc4267_enabled false
experimental_features.msc4155_enabled false
experimental_features.msc4293_enabled false
experimental_features.msc4306_enabled false
experimental_features.msc4446_enabled false
experimental_features.msc4354_enabled false
experimental_features.msc4450_enabled false
experimental_features.msc4452_enabled false
experimental_features.msc4491_enabled false
"""


def _read(listing: str) -> dict[str, object]:
    known: dict[str, object] = {}
    for line in listing.splitlines():
        name, _, default = line.partition(" ")
        known[name] = json.loads(default) if default else None
    return known


KNOWN_KEYS = _read(_LISTING)
