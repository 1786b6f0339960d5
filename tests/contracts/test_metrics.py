"""Dashboards and alerts are built on these names: changing one breaks somebody's screen."""

from engine.metrics import Metrics

NAMES = {
    "headrace_archive_files": "counter",
    "headrace_archive_unwritten_seconds": "gauge",
    "headrace_archived_clicks": "counter",
    "headrace_batch_clicks": "histogram",
    "headrace_catalogue_items": "gauge",
    "headrace_clicks": "counter",
    "headrace_consumer_lag": "gauge",
    "headrace_consumer_lag_seconds": "gauge",
    "headrace_broker_silent_seconds": "gauge",
    "headrace_cut_dead_letters": "counter",
    "headrace_loop_idle_seconds": "gauge",
    "headrace_memory_limit_bytes": "gauge",
    "headrace_ready": "gauge",
    "headrace_dead_letters": "counter",
    "headrace_deleted_records": "counter",
    "headrace_dropped_events": "counter",
    "headrace_evicted_users": "gauge",
    "headrace_exact_fallback_queries": "counter",
    "headrace_failed_snapshots": "counter",
    "headrace_forgotten_users": "counter",
    "headrace_freshness_seconds": "histogram",
    "headrace_freed_items": "counter",
    "headrace_held_searches": "gauge",
    "headrace_index_items": "gauge",
    "headrace_index_recall": "gauge",
    "headrace_lists": "counter",
    "headrace_misplaced_clicks": "counter",
    "headrace_next_click_hits": "counter",
    "headrace_next_click_popular_hits": "counter",
    "headrace_next_clicks": "counter",
    "headrace_release_info": "gauge",
    "headrace_release_refusals": "counter",
    "headrace_release_swaps": "counter",
    "headrace_removed_candidates": "counter",
    "headrace_refused_snapshots": "counter",
    "headrace_restore_seconds": "counter",
    "headrace_restored_users": "counter",
    "headrace_restoring_partitions": "gauge",
    "headrace_standby_partitions": "gauge",
    "headrace_searches": "counter",
    "headrace_session_restarts": "counter",
    "headrace_set_aside_windows": "counter",
    "headrace_stage_seconds": "counter",
    "headrace_unchanged_lists": "counter",
    "headrace_unsent_dead_letters": "counter",
    "headrace_unspilled_users": "gauge",
    "headrace_users": "gauge",
    "headrace_window_bytes": "gauge",
}


def test_names_and_kinds() -> None:
    families = {family.name: family.type for family in Metrics().registry.collect()}
    assert {family: kind for family, kind in families.items() if not family.startswith("process_")} == NAMES
