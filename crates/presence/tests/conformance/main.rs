//! What every store has to do: one suite, written once, run for each store. Each rule of `PresenceStore` has a case.

#![allow(clippy::unwrap_used)] // a case that cannot go on has failed

mod fixture;
mod leases;
mod listening;
mod memory;
mod node;
mod notes;
mod outage;
mod reaping;
mod redis;
mod redis_cluster;
mod redis_group;
mod redis_sentinel;
mod rows;

/// One test per case for a fixture.
macro_rules! conformance {
    ($fixture:ty: $($module:ident::$case:ident),+ $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                crate::$module::$case::<$fixture>().await;
            }
        )+
    };
}

/// What holds for all stores.
macro_rules! every_store {
    ($fixture:ty) => {
        crate::conformance!($fixture:
            rows::rows_come_back_as_they_were_written,
            rows::a_write_that_changes_nothing_gives_no_version,
            rows::a_put_is_over_what_was_there_and_a_remove_of_ones_own_only,
            rows::a_put_that_was_overtaken_by_the_next_life_of_its_process_changes_nothing,
            rows::occupied_and_vacated_are_told_once,
            rows::standings_count_users_and_connections,
            rows::many_rows_are_read_in_pages,
            rows::reading_misses_nothing_that_is_there_all_the_time,
            rows::tenants_and_channels_share_nothing,
            leases::a_lease_is_begun_and_extended,
            leases::a_lease_that_has_ended_is_never_held_again,
            leases::who_is_not_known_is_dead,
            leases::the_dead_are_given_to_one_that_reaps,
            leases::who_does_not_finish_reaping_is_followed_by_another,
            leases::who_resigns_is_dead_sooner,
            leases::who_resigns_at_once_leaves_nothing,
            notes::notes_are_kept_until_they_are_taken_back,
            notes::many_notes_are_read_in_pages_while_they_are_taken_back,
            reaping::only_the_rows_of_the_dead_are_removed_and_told,
            reaping::each_row_is_removed_once_whoever_reaps,
            reaping::what_was_written_too_late_is_reaped_again,
            listening::changes_are_told_where_a_node_listens_and_nowhere_else,
            listening::many_channels_are_listened_to_in_one_call,
            listening::versions_are_consecutive_however_many_write,
            listening::listening_and_reading_have_no_hole_between_them,
            listening::a_store_that_is_closed_does_nothing_more,
        );
    };
}

/// What holds for all stores that can be away.
macro_rules! every_outage {
    ($fixture:ty) => {
        crate::conformance!($fixture:
            outage::a_store_that_is_away_refuses_and_comes_back,
            outage::a_store_that_lost_its_data_begins_anew,
            outage::closes_while_the_store_is_away,
        );
    };
}

pub(crate) use {conformance, every_outage, every_store};
