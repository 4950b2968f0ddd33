//! What every adapter has to do, checked on real servers: one suite, written once in `cases`, run for each adapter.

#![allow(clippy::unwrap_used)] // a case that cannot go on has failed
#![allow(clippy::print_stdout)] // what was measured

mod cases;
mod fixture;
mod history;
mod interruption;
mod lifecycle;
mod memory;
mod nats;
mod nats_history;
mod nats_intake;
mod nats_streams;
mod node;
mod redis;
mod redis_cluster;
mod redis_cluster_history;
mod redis_history;
mod redis_sentinel;
mod slow;

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

/// What holds for all brokers, with patterns and without.
macro_rules! every_broker {
    ($fixture:ty) => {
        crate::every_channel!($fixture);
        crate::conformance!($fixture: cases::patterns_match_as_they_should);
    };
}

/// What holds for all brokers as far as it does not concern patterns.
macro_rules! every_channel {
    ($fixture:ty) => {
        crate::conformance!($fixture:
            cases::delivers_the_bytes_that_were_published,
            cases::keeps_the_order_of_each_channel,
            cases::isolates_tenants,
            cases::many_interests_in_one_call,
            cases::a_confirmed_interest_misses_nothing_and_a_removed_one_ends,
            cases::interests_of_one_channel_are_independent,
            cases::bodies_of_one_megabyte,
            cases::close_ends_everything,
            slow::a_hub_that_does_not_read_is_told_what_it_missed,
        );
    };
}

/// What holds for brokers with a server.
macro_rules! every_server {
    ($fixture:ty) => {
        crate::conformance!($fixture:
            interruption::a_server_that_restarts_under_load,
            interruption::a_server_that_is_away,
            interruption::a_server_that_is_frozen,
            interruption::closes_while_the_server_is_away,
        );
    };
}

/// What holds for brokers that keep history.
macro_rules! every_history {
    ($fixture:ty) => {
        crate::conformance!($fixture:
            history::positions_increase_and_come_with_live_publications,
            history::patterns_carry_positions,
            history::reads_forward_from_every_offset,
            history::reads_backward_to_the_beginning,
            history::a_read_is_bounded_in_bytes,
            history::what_was_trimmed_by_size_is_missed,
            history::what_has_expired_is_missed,
            history::several_channels_stand_where_they_stand,
            history::what_comes_on_an_empty_channel_lies_behind_its_position,
            history::an_id_is_published_once,
            history::an_id_is_published_once_by_many_at_a_time,
            history::tenants_share_no_history,
            history::other_namespaces_are_live_only,
            history::what_is_ephemeral_is_live_only,
            history::a_body_comes_back_as_it_came_live,
            history::history_and_live_publications_have_no_hole_between_them,
        );
    };
}

pub(crate) use {conformance, every_broker, every_channel, every_history, every_server};
