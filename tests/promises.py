"""What the product promises: sentences that a user may hold us to, each with the tests that hold it.

A test is named as pytest names it, a whole file by its path, and what CI runs beside by its `make` target.
`tests/test_promises.py` checks both ways: what is named exists, and no file of tests is without a promise.
"""

from typing import NamedTuple


class Area(NamedTuple):
    said_in: list[str]
    """The pages that say more."""
    promises: dict[str, list[str]]
    """Each with its tests."""


AREAS: dict[str, Area] = {
    "Console": Area(
        ["docs/console.md"],
        {
            "Pages do what the API does, for those who may, tell a secret once, and keep what was typed where it is wrong.": [
                "tests/doors/test_console.py",
                "tests/test_console_values.py",
                "tests/test_console_templates.py",
            ],
            "A newcomer registers, pays, calls by what the pages show, sees what it cost, and ends the key, in a browser alone.": [
                "tests/console/test_journey.py",
            ],
            "Bars, cards, files and the API tell one sum, and requests are told by what is kept of them alone.": [
                "tests/doors/test_console_usage.py",
                "tests/test_console_chart.py",
                "tests/console/test_usage.py",
                "tests/core/test_zones.py",
            ],
            "The list of models is the API's, with exact prices, and a model without one is shown as free, never as 0.": [
                "tests/doors/test_console_models.py",
            ],
            "Administrators see who answers, switch maintenance and incidents, and read the configuration without its secrets.": [
                "tests/doors/test_console_admin_service.py",
            ],
            "The playground asks as any program does, stops the backend, keeps nothing, and shows what helps where it is refused.": [
                "tests/doors/test_console_playground.py",
                "tests/console/test_playground.py",
            ],
            "What the console shows to paste is what the documents say, parses, and works in the clients themselves.": [
                "tests/doors/test_console_connect.py",
                "tests/console/test_connect.py",
            ],
            "The wallet's page is the ledger's to the nano-USD, makes one payment of two clicks, and credits nothing for an address that is made up.": [
                "tests/doors/test_console_wallet.py",
                "tests/console/test_wallet.py",
            ],
            "The status page tells everybody how each part is and was, and an open one changes, through a restart, too.": [
                "tests/doors/test_console_status.py",
                "tests/console/test_status.py",
            ],
            "Administrators see all accounts, change them and enter money on pages that are not there for others, and the audit log has each change.": [
                "tests/doors/test_console_admin.py",
                "tests/doors/test_console_admin_people.py",
                "tests/doors/test_console_admin_books.py",
                "tests/console/test_admin.py",
            ],
            "Every page is for those whom it is for, is small, shows text as text and times as UTC, and works without scripts and by the keyboard.": [
                "tests/doors/test_console_every_page.py",
                "tests/console/test_every_page.py",
            ],
            "Terms, privacy policy and support are named on pages, in the document and in refusals, and a browser gets pages where a program gets JSON.": [
                "tests/doors/test_policy_links.py",
            ],
            "People see where they are signed in and end it, owners invite by links that are told once, and nobody is deleted without typing who they are.": [
                "tests/doors/test_console_account.py",
            ],
            "Every page is clean to a browser, its policy and axe, in light and dark, on a desk and on a telephone, below a path, and from the wheel.": [
                "tests/console/test_looks.py",
                "tests/console/test_prefix.py",
                "tests/console/test_wheel.py",
                "tests/doors/test_prefix.py",
            ],
        },
    ),
    "Administration": Area(
        ["docs/admin.md"],
        {
            "Only the operator's administrators do over HTTP what the operator does, and their keys do nothing that an account's do.": [
                "tests/doors/test_admin_keys.py",
            ],
            "What administrators do over HTTP with accounts, budgets, keys and users counts at once, and is noted as the commands' changes are.": [
                "tests/doors/test_admin_account_keys.py",
                "tests/doors/test_admin_accounts.py",
                "tests/doors/test_admin_budgets.py",
                "tests/doors/test_admin_users.py",
            ],
            "Administrators enter money, read of each account what it reads of itself and set its webhook, each entry once and each change noted.": [
                "tests/doors/test_admin_money.py",
            ],
            "What the operator changes is noted with who, when, from where, before and after, in the transaction of the change, and no entry is changed or removed.": [
                "tests/core/test_audit.py",
                "tests/test_audit_command.py",
            ],
            "What one of several servers switches of the service, all of them go by at once, also those that were away.": [
                "tests/core/test_service_notice.py",
            ],
            "Maintenance, the incident and the end are switched over HTTP and by commands, each switch is noted, and what is switched holds over restarts.": [
                "tests/doors/test_admin_service.py",
                "tests/test_service_command.py",
            ],
            "The configuration is read again without losing a request, and a bad one changes nothing.": [
                "tests/doors/test_reload.py",
            ],
            "Cost is told by user and by tag to accounts that ask for it, comes to what was charged, and nothing else of what names them is kept.": [
                "tests/doors/test_attribution.py",
            ],
            "What an account lists is exported as CSV and as lines of JSON with every row, and without what a spreadsheet would run.": [
                "tests/doors/test_exports.py",
            ],
        },
    ),
    "Webhooks": Area(
        ["docs/webhooks.md"],
        {
            "Each threshold of a budget and a low balance are told once, by an event that is written in the transaction that moved the money, and by nothing else that requests pay for.": [
                "tests/core/webhooks/test_outbox.py",
            ],
            "An event is delivered signed and at least once, whatever is killed meanwhile, or given up after days with a line in the log.": [
                "tests/core/webhooks/test_deliveries.py",
                "tests/crash/test_webhooks.py",
            ],
            "What an account names as its webhook is reached over https, at public addresses alone, and its answer is not read beyond the status.": [
                "tests/core/webhooks/test_sending.py",
                "tests/doors/test_webhooks.py",
                "tests/test_webhook_command.py",
            ],
        },
    ),
    "People": Area(
        ["docs/people.md", "docs/oauth.md"],
        {
            "People sign in by a password, and their tokens and cookies open what keys do and nothing of others.": [
                "tests/doors/test_people.py",
                "tests/core/identity/test_people_writes.py",
                "tests/doors/test_roles.py",
            ],
            "The operator makes, invites, disables and deletes users on the command line, and reads no password there.": [
                "tests/test_user_commands.py",
            ],
            "A password is kept as a hash that is dear to guess, and tried as seldom as people need.": [
                "tests/core/identity/test_passwords.py",
                "tests/core/test_sign_ins.py",
            ],
            "What signs tokens is replaced before it is old, and nobody is signed out by that.": [
                "tests/core/identity/test_access_tokens.py",
            ],
            "People whom a certified OpenID provider knows sign in there, and they and programs get its tokens for the gateway.": [
                "tests/clients/test_oidc.py",
            ],
            "An issuer's tokens are good if they are its own, for this gateway and not over; its keys may change, and it may be away.": [
                "tests/core/identity/oidc/test_issuer.py",
            ],
            "Whom an issuer knows is let in by its tokens, as what it says and as long as it says so, where the operator wants that.": [
                "tests/doors/test_oidc.py",
                "tests/core/identity/oidc/test_issued_tokens.py",
            ],
            "Who signs in with a browser at the issuer comes back to where they began, in the browser that began, and nobody else does.": [
                "tests/doors/test_oidc_browser.py",
            ],
            "A person lets a program in by a browser for what they chose there, and it gets no further, nor anybody in its place.": [
                "tests/doors/test_oauth.py",
                "tests/core/identity/test_oauth_writes.py",
                "tests/core/image_fetching/test_documents.py",
                "tests/console/test_authorize.py",
            ],
        },
    ),
    "Providers": Area(
        ["docs/providers.md"],
        {
            "Whatever a provider does on the wire, a caller sees OpenAI's API and the books what the provider bills.": [
                "tests/providers/test_contract.py::TestChats::test_an_answer_in_one_piece_has_openais_shape_and_the_providers_bill",
                "tests/providers/test_contract.py::TestChats::test_a_stream_has_one_finish_one_end_and_a_usage_where_it_was_asked_for",
                "tests/providers/test_contract.py::TestChats::test_a_call_of_a_tool_is_numbered_from_zero_and_finishes_as_one",
                "tests/providers/test_contract.py::TestChats::test_a_stream_is_the_same_in_pieces_of_a_byte",
                "tests/providers/test_contract.py::TestChats::test_a_stream_without_a_finish_is_a_failure",
                "tests/providers/test_cut_streams.py",
                "tests/providers/test_manners.py",
            ],
            "What a provider refuses means the same in whatever words and with whatever status, and the next is asked unless the caller is at fault.": [
                "tests/providers/test_refusals.py",
            ],
            "Completions and embeddings of providers are told in OpenAI's form and billed as the provider bills them; what one has not there is refused and takes no model from others.": [
                "tests/providers/test_completions.py",
                "tests/providers/test_embeddings.py",
            ],
            "An image that a request names by its address is fetched here, judged and paid for, and a provider is sent its data.": [
                "tests/providers/test_images.py",
            ],
            "What a provider wants to have again with a next turn comes back to it, by whichever name its caller was told it.": [
                "tests/providers/test_replay.py",
            ],
            "Responses of providers are asked without any state, and end as one of the own servers does, whatever the provider tells beside.": [
                "tests/providers/test_responses.py",
            ],
            "What Messages and chats call by different words is told in the words of who asks.": [
                "tests/core/dialects/translation/test_words.py",
                "tests/core/dialects/translation/test_messages_as_chat.py",
                "tests/core/dialects/translation/test_chat_as_message.py",
                "tests/core/dialects/translation/test_message_blocks.py",
                "tests/core/dialects/translation/test_chat_as_messages.py",
                "tests/core/dialects/translation/test_message_as_chat.py",
                "tests/providers/test_anthropic_chats.py",
                "tests/providers/test_messages.py",
                "tests/providers/test_messages_translated.py",
                "tests/providers/test_messages_mutated.py",
            ],
            "No caller is told of the operator's account at a provider, nor ever to pay for it, and no provider of a caller.": [
                "tests/providers/test_contract.py::TestChats::test_the_operators_empty_account_is_503_and_never_402",
                "tests/providers/test_contract.py::TestChats::test_a_key_that_is_refused_is_the_operators_fault",
                "tests/core/dialects/test_openai_refusals.py",
            ],
            "A message goes to Anthropic as it is, comes back as it is told there, and is billed by Anthropic's own counts.": [
                "tests/providers/test_anthropic_messages.py",
            ],
            "A model with several candidates goes to the next where one fails before its first token, on one hold, at the price of who answered.": [
                "tests/providers/test_candidates.py",
            ],
            "A provider is asked by name, before the model's or in the query, for what an entry sells and nothing else.": [
                "tests/providers/test_names.py",
            ],
            "A provider's own paths are for accounts that may, and change nothing that is asked by them, or refuse it.": [
                "tests/core/inference/test_unchanged.py",
                "tests/core/test_proxy_paths.py",
                "tests/providers/test_proxy.py",
            ],
            "What nobody reads of a provider's own paths passes as it is, at a flat price that is charged once.": [
                "tests/providers/test_proxy_unread.py",
            ],
            "Two lines add a provider, and a command tells which of the models that are sold it has.": [
                "tests/providers/test_presets.py",
                "tests/providers/test_check.py",
            ],
        },
    ),
    "Money": Area(
        ["README.md", "docs/billing.md", "docs/tutorial.md"],
        {
            "Every answer that a client saw whole is billed once, at exactly the prices and token counts in its record.": [
                "tests/doors/test_http_money.py::test_an_answer_costs_its_usage_to_the_nano_and_its_last_byte_leaves_after_the_settlement",
                "tests/crash/test_kill.py::test_a_server_killed_under_load_loses_no_bill_and_leaves_no_hold",
            ],
            "An answer that was refused, that failed before its first token or that a backend broke off as a whole is not billed.": [
                "tests/doors/test_http_money.py::test_an_answer_that_fails_costs_nothing",
                "tests/doors/test_http_refusals.py::test_a_refusal_on_a_priced_model_leaves_the_wallet_as_it_was",
                "tests/core/test_chat_attempts.py::test_what_fails_everywhere_is_told_and_billed_nothing",
                "tests/doors/test_collected_answers.py::test_an_answer_that_breaks_off_with_nowhere_to_go_is_not_billed",
            ],
            "Whoever leaves a stream pays for the prompt and for the tokens that had come until then, at whichever frame it leaves and by whichever surface.": [
                "tests/doors/test_http_money.py::test_a_client_that_leaves_a_stream_at_any_frame_pays_the_prompt_and_the_tokens_that_came",
                "tests/core/surfaces/test_message_events.py::test_who_leaves_pays_the_prompt_and_a_token_for_each_event_that_brought_any",
                "tests/doors/test_money_both_doors.py::test_a_client_that_leaves_over_mcp_pays_for_the_tokens_read_so_far",
            ],
            "Whoever leaves before the answer pays the prompt where the backend counts it, and nothing where it cannot.": [
                "tests/doors/test_http_money.py::test_a_client_that_leaves_before_its_answer_pays_the_prompt_where_the_backend_counts_it",
                "tests/core/test_chat_bills.py::test_who_leaves_before_an_answer_pays_the_prompt_where_it_has_a_price",
            ],
            "A client that leaves pays for no more tokens than were held for.": [
                "tests/doors/test_http_money.py::test_a_client_that_leaves_pays_for_no_more_tokens_than_were_held",
            ],
            "An answer in one piece that is collected from a stream is paid for as far as it was made when its client leaves.": [
                "tests/doors/test_http_money.py::test_who_leaves_a_long_answer_in_one_piece_pays_for_what_was_made_where_it_is_a_stream_behind_us",
            ],
            "A stream whose backend dies in the middle is billed for what was delivered.": [
                "tests/doors/test_http_failover.py::test_a_stream_that_fails_in_the_middle_ends_with_one_error_and_is_billed_for_what_was_delivered",
                "tests/core/test_chat.py::test_usage_is_read_from_the_last_frame_when_the_stream_breaks_off",
            ],
            "Many requests at once on a wallet worth ten of them get ten answers and no more, over all surfaces together.": [
                "tests/doors/test_http_money.py::test_a_wallet_worth_some_requests_serves_exactly_those_of_many_at_once",
                "tests/doors/test_http_money.py::test_all_surfaces_at_once_spend_one_wallet_and_never_more",
                "tests/attack/test_overspend.py::test_a_wallet_worth_ten_requests_serves_exactly_ten_of_two_hundred_at_once",
                "tests/core/ledger/test_ledger.py::test_what_another_process_adds_is_spent_once_by_the_one_that_holds",
                "tests/core/ledger/test_purse.py",
            ],
            "Several servers of one database spend exactly what a wallet, a budget or a lease has, refuse nobody for money that nobody holds, and take what a dead one held once.": [
                "tests/core/ledger/test_replicas.py",
                "tests/core/ledger/test_replicas_of_leases.py",
                "tests/core/ledger/test_replicas_life.py",
                "tests/core/store/postgres/test_replicas_outages.py",
            ],
            "Payments, refunds, disputes and adjustments are booked once, whichever of several servers hears of them, however often, and whoever is killed meanwhile.": [
                "tests/engines/test_payments.py",
            ],
            "Of several servers of one database one does what falls due by the clock, so that webhooks and payments are sent once, and another takes over from one that is gone or frozen.": [
                "tests/core/store/postgres/test_election.py",
                "tests/engines/test_elected.py::test_another_is_elected_for_one_that_is_frozen_and_killed_and_none_beside_it",
            ],
            "What several servers count of a day, a minute or an outcome is counted once, and known to all of them.": [
                "tests/core/store/postgres/test_shared_statistics.py",
            ],
            "What a command asks of several servers is done by one of them, once, and by all where it concerns all, and who did not is named.": [
                "tests/core/ledger/test_replicas_orders.py",
                "tests/engines/test_elected.py",
            ],
            "No balance goes below zero except by a refund, a dispute or the operator's adjustment.": [
                "tests/core/ledger/test_rules.py",
                "tests/core/ledger/test_machine.py",
                "tests/core/ledger/test_ledger.py::test_an_excess_is_never_taken_from_what_others_hold_nor_from_below_zero",
                "tests/core/payments/test_events.py::test_a_dispute_of_spent_money_goes_below_zero_and_holds_are_refused_from_there",
                "tests/core/ledger/test_ledger.py::test_an_adjustment_applies_once_up_or_down_and_below_nothing",
            ],
            "A hold is made for the dearest case that a request may cost, before anything is sent.": [
                "tests/core/inference/test_terms.py",
                "tests/doors/test_prices.py::test_the_dearest_that_may_apply_is_held_for",
                "tests/doors/test_completions.py::test_the_hold_is_for_all_that_may_be_made",
                "tests/doors/test_scores.py::test_a_query_is_held_for_with_each_document",
            ],
            "A budget bounds what a key or a group of keys, with what they make, or an account spends in a window, to the nano-USD.": [
                "tests/core/ledger/test_budgets.py",
                "tests/doors/test_budgets.py",
                "tests/doors/test_budget_tree.py",
            ],
            "Where money is tight a chat or completion holds its prompt and a slice of output after the other as it comes, and ends whole at the last token that is paid.": [
                "tests/doors/test_growing_holds.py",
                "tests/doors/test_cut_answers.py",
                "tests/core/inference/test_running_hold.py",
                "tests/core/inference/test_rationed.py",
                "tests/core/inference/test_tight_money.py",
            ],
            "A balance below the worst case lowers `max_tokens` to what it affords, and `X-Max-Tokens-Clamped` says so.": [
                "tests/doors/test_http_money.py::test_a_balance_below_the_worst_case_lowers_the_limit_and_says_so",
                "tests/core/inference/test_terms.py::test_what_a_smaller_hold_affords_never_costs_more_than_the_hold",
            ],
            "A wallet that affords no useful answer is 402 with the balance, and no backend is asked.": [
                "tests/doors/test_http_money.py::test_an_empty_wallet_is_402_in_the_surfaces_own_word_and_nothing_is_asked",
                "tests/doors/test_http_money.py::test_who_has_too_little_is_told_the_balance",
            ],
            "Money that the account's own running requests hold is waited for, and after that 429 says when to come again.": [
                "tests/doors/test_balance_held.py",
                "tests/core/ledger/test_wait_list.py",
                "tests/core/ledger/test_forgotten_purses.py",
            ],
            "What an answer costs beyond its hold is taken as far as the wallet has it free; the rest is the operator's loss, told in a metric and the log.": [
                "tests/doors/test_http_money.py::test_usage_beyond_the_hold_is_billed_as_far_as_the_wallet_reaches",
                "tests/doors/test_http_money.py::test_what_no_wallet_covers_is_the_operators_loss_in_a_metric_and_a_log_line",
            ],
            "A backend's usage is believed within its bounds alone; one that cannot be is billed by the operator's policy, and told as it is billed.": [
                "tests/core/surfaces/test_credible.py",
                "tests/core/surfaces/test_usage.py",
                "tests/doors/test_usage_policy.py",
                "tests/doors/test_http_money.py::test_a_usage_that_cannot_be_never_costs_more_than_the_hold_and_told_is_what_is_billed",
            ],
            "Amounts are exact: integers of nano-USD inside, decimal strings outside, and a cost is rounded up once.": [
                "tests/core/test_money.py",
                "tests/core/test_catalog.py::test_a_cost_is_rounded_up_once",
            ],
            "A prompt that may exceed the model's window is counted by a backend and refused where it does.": [
                "tests/doors/test_windows.py",
            ],
            "The same conversation costs the same by chat, messages, responses and MCP, to the nano-USD, where the backend counts the same prompt.": [
                "tests/doors/test_same_price.py",
            ],
            "Prices of caches, fees, images and long prompts are billed by what the backend told, listed as they are billed, and named by the record.": [
                "tests/core/test_prices.py",
                "tests/doors/test_prices.py",
            ],
            "A configuration that could give tokens away, or sell them for a million times their price, does not start.": [
                "tests/core/test_config.py::TestFaults::test_a_price_that_is_meant_for_a_million_tokens_is_refused_until_it_says_so",
                "tests/core/test_config.py::TestFaults::test_a_price_for_a_million_tokens_has_bounds_too",
                "tests/core/test_config.py::TestFaults::test_a_model_has_both_prices_or_none",
            ],
            "Once any model has a price, one without is not published unless it says that it is free.": [
                "tests/doors/test_unpriced_models.py",
                "tests/core/test_catalog.py::test_a_model_without_a_price_is_published_until_another_has_one",
            ],
            "An account's margin is in its holds, bills, records and the prices that it is told, and nobody else sees it.": [
                "tests/doors/test_margins.py",
            ],
            "Granted credit is used before what was paid, what expires first before the rest, and goes back to where it came from.": [
                "tests/core/ledger/test_ledger.py::test_granted_credit_goes_first",
                "tests/core/ledger/test_ledger.py::test_the_grant_that_expires_first_is_used_first_and_refilled_last",
                "tests/core/ledger/test_ledger.py::test_a_release_gives_everything_back_to_where_it_came_from",
            ],
            "Old requests are deleted beside traffic, a few at a time, their sums stay, and the space is used again or given back.": [
                "tests/core/observe/test_retention.py",
                "tests/doors/test_retention.py",
            ],
            "Rows repeat no names: these are written once, never mistaken for others whatever is rolled back, and a database that had them in its rows is told as before.": [
                "tests/core/store/test_names.py",
                "tests/core/store/sqlite/test_migrated_rows.py",
            ],
            "Sums by the hour are put right by their requests beside traffic, and those whose requests are gone stay.": [
                "tests/core/observe/test_rebuilt_sums.py",
            ],
            "Past months are closed into sums that say what their entries said, and charges may go into a file: balances, statements and checks stay right, whatever is killed in between.": [
                "tests/core/ledger/test_closing.py",
                "tests/crash/test_archive.py",
            ],
            "The ledger is append-only, every transaction sums to zero, and a check finds what differs.": [
                "tests/test_commands.py::test_the_books_agree_until_a_balance_differs_from_its_entries",
                "tests/core/ledger/test_ledger.py",
                "tests/core/ledger/test_checkpoint.py",
                "tests/core/ledger/test_bursts.py",
            ],
            "What a command would take out of a wallet beside a running server is decided by that server, or nothing is changed.": [
                "tests/core/ledger/test_orders.py",
                "tests/core/store/sqlite/test_orders.py",
            ],
            "What an operator moves under one reference moves once, and what a month earned is told by account and model.": [
                "tests/test_commands.py::test_money_is_moved_once_for_each_reference",
                "tests/test_commands.py::test_the_revenue_of_a_month_is_told_by_account_and_model",
            ],
            "What was billed is what the backends counted, and each way in which the two come apart is named.": [
                "tests/doors/test_reconcile.py",
                "tests/core/observe/test_differences.py",
                "tests/core/observe/test_counter_samples.py",
                "tests/core/dialects/test_counters.py",
            ],
            "What `prices import` writes loads, costs what its table says, and names what of it could not be said.": [
                "tests/test_price_import.py",
            ],
            "A bill is on the disk before the last byte of its answer leaves.": [
                "tests/core/store/sqlite/test_write_ahead_log.py::test_a_durable_result_never_comes_before_a_sync_that_began_after_its_commit",
                "tests/core/test_chat.py::test_a_whole_answer_is_settled_before_it_is_handed_out",
                "tests/core/test_chat.py::test_a_stream_is_settled_before_its_last_frames_and_empty_after_them",
            ],
            "Through a locked database, a full disk and failing fsyncs, what is told, recorded and billed of each request is the same.": [
                "tests/outages/test_outages.py",
                "tests/doors/test_money_both_doors.py::test_in_an_outage_new_requests_are_refused_and_streams_end_whole_and_are_billed_later",
                "tests/doors/test_money_both_doors.py::test_a_whole_answer_waits_for_its_bill_and_is_refused_unbilled_where_that_takes_too_long",
            ],
            "Bills that could not be written when the process ended are written once by the next start.": [
                "tests/core/ledger/test_pending.py",
            ],
            "After a kill settlements stand, what ran holds nothing and costs nothing, and the requests that ran count in the day.": [
                "tests/core/ledger/test_ledger.py::test_after_a_kill_settlements_stand_and_open_holds_are_forgotten",
                "tests/crash/test_kill.py",
                "tests/crash/test_day_counts.py",
            ],
            "Holds that no request can still have are released.": [
                "tests/core/ledger/test_pending.py::test_a_hold_that_no_request_can_still_have_is_released",
                "tests/core/ledger/test_ledger.py::test_holds_that_are_nobodys_are_released_now_and_then_and_told_of",
            ],
            "A payment through Stripe is credited once, when its money arrived, however often and in whatever order events come.": [
                "tests/core/payments/test_events.py",
                "tests/core/payments/test_writes.py",
                "tests/doors/test_topups.py",
            ],
            "A balance below a threshold is one payment by the saved method, credited once, within the day's most; one that fails is the last.": [
                "tests/core/payments/test_auto_topups.py",
                "tests/doors/test_auto_topups.py",
                "tests/crash/test_auto_topups.py",
            ],
            "A payment that credits nobody, and a signed event of an odd shape, are logged and counted, and never a 500.": [
                "tests/core/payments/test_events.py::test_money_that_arrived_for_nobody_is_told_once",
                "tests/core/payments/test_events.py::test_a_signed_event_of_an_odd_shape_is_refused_and_moves_nothing",
                "tests/core/payments/test_events.py::test_an_event_that_cannot_be_read_is_counted",
            ],
            "A month's statement adds up: opening, moves and use come to the closing balance, as JSON, a table or a page.": [
                "tests/doors/test_statements.py",
                "tests/core/ledger/test_months.py",
                "tests/core/ledger/test_statement.py",
            ],
            "Guests, test keys and free models pay nothing, and are recorded all the same.": [
                "tests/doors/test_http_money.py::test_guests_test_keys_and_free_models_pay_nothing",
                "tests/core/ledger/test_records.py",
            ],
            "An account sees its wallet, its transactions and its requests, page by page, each entry exactly once, and nothing of another's.": [
                "tests/doors/test_billing.py",
                "tests/doors/test_usage.py",
            ],
            "An answer in one piece tells its cost in `X-Cost-USD`, and a stream that asked for usage in the usage of its last frame.": [
                "tests/doors/test_billing.py::test_a_unary_answer_tells_its_cost_in_a_header",
                "tests/doors/test_billing.py::test_a_stream_that_asked_for_usage_ends_with_its_cost_once_that_is_settled",
                "tests/core/surfaces/test_splice.py::test_the_cost_is_told_within_the_usage_of_the_last_frame_and_nowhere_else",
            ],
            "The tutorial's commands work as pasted, from nothing to a bill.": [
                "tests/clients/test_tutorial.py",
            ],
            "Every line and branch of inference, the ledger and the store is run by their own tests.": [
                "make coverage",
            ],
        },
    ),
    "The MCP door": Area(
        ["docs/mcp.md", "docs/clients.md"],
        {
            "Streamable HTTP and HTTP+SSE speak every revision from 2024-11-05 to 2026-07-28 at one address each, without a redirect.": [
                "tests/doors/test_mcp_transports.py::test_the_sdk_client_lists_and_calls_over_each_transport_in_each_era",
                "tests/doors/test_mcp_transports.py::test_each_address_serves_without_a_redirect",
                "tests/doors/test_mcp_transports.py",
            ],
            "The official MCP conformance suite passes against the door and through the bridge.": [
                "make conformance",
            ],
            "A backend's odd model name, list or number is left out with one log line, and ends no discovery.": [
                "tests/core/upstream/test_listings.py",
                "tests/attack/test_mutated_answers.py::test_whatever_a_backend_says_of_itself_the_catalog_is_well_and_comes_back",
            ],
            "Resource URIs are URIs that no client's parser changes, and each reads the model that it was listed for.": [
                "tests/doors/test_mcp_catalog.py::test_every_listed_uri_is_one_that_no_clients_parser_changes_and_reads_the_model_listed_there",
                "tests/clients/test_sdks.py::test_the_python_sdk_1_reads_every_model_as_a_resource",
            ],
            "Resources, prompts, subscriptions and the completion of model ids work over each transport in each era.": [
                "tests/doors/test_mcp_catalog.py",
            ],
            "A reply without text says what happened and what to do, and is no empty block.": [
                "tests/doors/test_mcp_tools.py::test_a_reply_without_text_says_what_happened_and_what_to_do",
                "tests/doors/test_mcp_tools.py::test_a_blank_reply_to_a_lowered_limit_does_not_advise_a_larger_one",
            ],
            "Arguments are taken as hosts send them where the meaning is plain, by the schema; a near miss of a name is refused with the right one.": [
                "tests/tools/test_arguments.py",
                "tests/doors/test_mcp_tools.py::test_arguments_may_be_json_text",
            ],
            "The schemas of all tools keep to what every host's model takes.": [
                "tests/doors/test_mcp_schemas.py::test_every_host_s_model_takes_the_schema",
                "tests/doors/test_mcp_schemas.py::test_a_schema_that_some_host_refuses_breaks_a_rule",
            ],
            "Tools and their descriptions are few and small enough to leave a model's context to its conversation.": [
                "tests/doors/test_mcp_schemas.py::test_tools_and_their_descriptions_are_of_a_size_that_hosts_take",
                "tests/doors/test_mcp_schemas.py::test_all_tools_together_leave_a_models_context_to_its_conversation",
            ],
            "No error is so long that hosts cut off its advice.": [
                "tests/doors/test_mcp_tools.py::test_no_error_is_so_long_that_hosts_cut_its_advice_off",
            ],
            "The line ends of Unicode leave escaped in every frame of every door.": [
                "tests/doors/test_line_ends.py",
                "tests/bridge/test_edges.py::test_a_line_for_the_client_holds_no_line_end_of_unicode",
            ],
            "Messages that are odd and plain all the same are served; otherwise the error names the parameter and what it must be.": [
                "tests/doors/test_mcp_odd_messages.py",
                "tests/doors/test_odd_values.py::test_in_an_mcp_message",
            ],
            "An HTTP+SSE client finds its messages also behind a path prefix of a proxy.": [
                "tests/doors/test_mcp_odd_messages.py::test_an_http_sse_client_finds_its_messages_wherever_its_stream_is",
            ],
            "The list of models, and that of resources, come in bounded pages, each model once.": [
                "tests/doors/test_mcp_pages.py",
            ],
            "Who gives a progress token hears at once that a call runs, and at least every 10 s, also while a person is asked something.": [
                "tests/doors/test_mcp_lifetimes.py::test_progress_is_told_at_once_then_with_new_words_and_sometimes_in_silence",
                "tests/doors/test_mcp_asking.py::test_progress_is_told_while_a_person_is_asked_and_its_number_grows",
            ],
            "Cancelling, or leaving, ends the call at its backend, and what was made until then is billed.": [
                "tests/doors/test_mcp_lifetimes.py",
                "tests/doors/test_collected_answers.py::test_who_ends_an_mcp_session_pays_for_what_its_call_had_made",
            ],
            "A large answer is cut to what clients take, says so, and is billed.": [
                "tests/doors/test_mcp_tools.py::test_an_answer_still_too_long_loses_words_and_says_so",
                "tests/doors/test_mcp_endurance.py",
            ],
            "A call's result tells its text, usage, cost and the id under which it is recorded.": [
                "tests/doors/test_mcp_tools.py::test_a_reply_comes_as_text_and_as_data_with_its_bill",
                "tests/doors/test_mcp_tools.py",
            ],
            "An answer that cannot be understood is its backend's error over both doors, and is not billed.": [
                "tests/doors/test_mcp_odd_answers.py",
            ],
            "An empty wallet names the page to top up at, and a client that can is shown it, or asks by a form how much.": [
                "tests/doors/test_mcp_asking.py",
            ],
            "The tool `embeddings` is listed while the catalog has such a model, and is billed as over HTTP.": [
                "tests/doors/test_mcp_embeddings.py",
            ],
            "A session belongs to who opened it, and ends when it is idle, deleted or its key is revoked.": [
                "tests/doors/test_mcp_transports.py::test_a_session_is_not_found_by_anyone_but_its_opener",
                "tests/doors/test_mcp_lifetimes.py::test_an_idle_session_expires_and_a_used_one_does_not",
                "tests/doors/test_mcp_lifetimes.py::test_a_revoked_key_loses_its_sessions_and_streams_and_others_keep_theirs",
            ],
            "Where replicas share a database and a Valkey, any of them serves a session of MCP, for its owner alone, until it is over; one that dies costs its streams.": [
                "tests/doors/test_mcp_replicas.py",
                "tests/core/test_session_ids.py",
                "tests/core/test_sharing.py",
                "tests/engines/test_replicas.py",
            ],
            "What one caller can have the door keep is bounded, and guests leave room to keys.": [
                "tests/doors/test_mcp_bounds.py",
                "tests/doors/test_mcp_shares.py",
            ],
            "Of a message its method is found without parsing, and only a tool's call may be large.": [
                "tests/doors/test_mcp_method.py",
                "tests/doors/test_mcp_transports.py::test_only_a_call_of_a_tool_may_be_large_and_this_is_seen_without_parsing",
            ],
            "Refusals over MCP are counted once each.": [
                "tests/doors/test_mcp_refusals.py",
            ],
            "A client without a valid key is told to send one as a bearer, and is sent to no authorization server, as there is none.": [
                "tests/doors/test_mcp_discovery.py",
            ],
            "Where others give tokens, each MCP address says who, a refusal leads there, and guests have an address apart.": [
                "tests/doors/test_protected_resources.py",
            ],
            "The MCP server's card tells what a client finds once it is connected.": [
                "tests/doors/test_server_card.py",
            ],
            "The blocks and programs of the page on clients lead to the gateway as they stand.": [
                "tests/clients/test_docs.py",
            ],
            "The official SDKs of Python and TypeScript, other bridges and the inspector call every tool.": [
                "tests/clients/test_sdks.py",
                "tests/clients/test_inspector.py",
            ],
            "An installed desktop bundle reaches every tool with the key that was typed in, or as a guest.": [
                "tests/clients/test_bundle.py",
            ],
            "The server's introduction is of a size that hosts do not cut, and `chat_completion` declares how long a result may be.": [
                "tests/doors/test_mcp_transports.py::test_the_server_introduces_itself",
                "tests/doors/test_mcp_transports.py::test_what_a_revision_lacks_is_absent_in_its_list_of_tools",
            ],
            "The tools only read, and say so to hosts.": [
                "tests/doors/test_mcp_transports.py::test_tools_say_what_they_do_to_the_world",
            ],
        },
    ),
    "Tools of other servers": Area(
        ["docs/mcp-servers.md"],
        {
            "Servers of tools are connected in every revision of the protocol, again after each loss, and hold nothing else up.": [
                "tests/core/mcp_client/test_watched.py",
                "tests/doors/test_mcp_server_tools.py::test_a_gateway_starts_without_its_servers_of_tools",
            ],
            "A key is told, and may use, the tools of its account's servers alone; guests and test keys have none.": [
                "tests/doors/test_mcp_server_tools.py",
                "tests/core/mcp_client/test_watched.py::test_guests_and_test_keys_have_no_server_and_others_what_is_theirs",
            ],
            "A model's calls of such tools are run within bounds, and billed round by round; whatever fails, the caller gets the answer.": [
                "tests/doors/test_tool_rounds.py",
                "tests/core/inference/test_round_frames.py",
                "tests/providers/test_server_tools.py",
                "tests/attack/test_mutated_rounds.py",
                "tests/clients/test_tool_servers.py",
            ],
        },
    ),
    "The bridge": Area(
        ["docs/mcp.md"],
        {
            "The bridge relays calls, progress, cancelling and notifications of both eras as they are, to either transport.": [
                "tests/bridge/test_transports.py",
            ],
            "A key never goes through a proxy to this machine, and a plain connection through another warns.": [
                "tests/bridge/test_environment.py::test_loopback_is_never_reached_through_a_proxy",
                "tests/bridge/test_environment.py::test_plain_http_through_a_proxy_works_and_warns",
                "tests/bridge/test_program.py::test_a_key_that_would_leave_the_machine_unencrypted_is_noticed",
            ],
            "What of the environment cannot be used is told in one line that names the variable and never its value, with exit status 2.": [
                "tests/bridge/test_environment.py::test_what_cannot_be_used_is_refused_in_one_line_that_names_the_variable_and_never_its_value",
                "tests/bridge/test_program.py::test_a_missing_url_or_a_key_in_the_arguments_is_refused_in_one_line_that_repeats_no_secret",
            ],
            "URL and key are read without the spaces, line ends and quotes that configuration files leave on them.": [
                "tests/bridge/test_environment.py::test_a_setting_is_read_without_what_configuration_files_leave_on_it",
                "tests/bridge/test_environment.py::test_a_key_is_found_in_what_was_pasted",
            ],
            "A certificate that is not trusted is told with the variable that would help.": [
                "tests/bridge/test_environment.py::test_a_certificate_that_is_not_trusted_is_told_with_the_variable_that_would_help",
            ],
            "All that a script has sent is answered after its input ended, also a last line without an end.": [
                "tests/bridge/test_transports.py::test_all_that_a_script_has_sent_is_answered_also_a_last_line_without_an_end",
            ],
            "A call that was under way when the server went away fails at once and is never sent twice.": [
                "tests/bridge/test_transports.py::test_a_call_cut_by_a_crash_is_answered_with_an_error_and_not_sent_again",
                "tests/bridge/test_edges.py::test_a_response_cut_in_the_middle_is_one_clean_error_and_the_call_is_not_sent_again",
            ],
            "The next call finds a restarted server again, with the session that the client believes it has.": [
                "tests/bridge/test_transports.py::test_the_session_survives_a_restart_of_the_server",
                "tests/bridge/test_gateway.py",
            ],
            "Redirects and endpoints are followed within the URL's origin, however they spell it, and nowhere else.": [
                "tests/bridge/test_edges.py::test_a_redirect_within_the_origin_is_followed",
                "tests/bridge/test_edges.py::test_a_redirect_elsewhere_or_to_another_method_is_told_and_not_followed",
                "tests/bridge/test_edges.py::test_an_endpoint_of_the_same_origin_is_followed_however_it_is_spelt",
            ],
            "An address that has no event stream is told with the one that is meant.": [
                "tests/bridge/test_edges.py::test_an_address_without_an_event_stream_is_told_which_one_is_meant",
            ],
            "Other servers' frames are read whole, however their bytes arrive and their lines end.": [
                "tests/bridge/test_edges.py::test_events_are_read_whole_however_the_bytes_arrive_and_lines_end",
                "tests/bridge/test_edges.py",
            ],
            "The bridge ends as the specification's lifecycle of stdio has it, and cancels what runs for it.": [
                "tests/bridge/test_transports.py::test_a_bridge_that_is_told_to_end_cancels_its_calls_and_ends_the_session",
                "tests/bridge/test_transports.py::test_where_nobody_reads_the_answers_any_more_the_calls_are_cancelled",
                "tests/bridge/test_program.py::test_the_bridge_ends_when_nobody_reads_its_output",
            ],
            "`--check` tells in words whether URL, key and tools work, and no log shows a key.": [
                "tests/bridge/test_program.py",
            ],
            "The proxy is the one that the environment names for the URL, in every form of `NO_PROXY`.": [
                "tests/bridge/test_environment.py",
            ],
        },
    ),
    "Keys, guests and limits": Area(
        ["docs/keys.md", "docs/errors.md"],
        {
            "A key works in the next request after it was made, by whichever process.": [
                "tests/core/identity/test_keys.py::test_a_new_key_is_found_by_its_digest_at_once",
                "tests/doors/test_http_keys.py::test_a_new_key_is_shown_once_and_works_at_once",
                "tests/core/identity/test_known_keys.py::test_a_server_notices_what_another_process_changes",
            ],
            "What is unknown is looked up before it is refused, and a flood of junk is bounded.": [
                "tests/core/identity/test_known_keys.py::test_a_refused_key_is_asked_of_the_database_once",
                "tests/core/identity/test_known_keys.py::test_of_refused_credentials_only_so_many_are_remembered",
                "tests/doors/test_refusals_forgotten.py",
            ],
            "The command line works beside a running server, which notices within a second.": [
                "tests/doors/test_http_keys.py::test_what_the_command_line_changes_is_noticed_within_a_second",
            ],
            "Keys of an account that is switched off are refused until it is on again.": [
                "tests/core/identity/test_known_keys.py::test_keys_of_a_deactivated_account_are_refused_until_it_is_active_again",
                "tests/test_commands.py::test_an_account_is_switched_off_and_on_again",
            ],
            "Changing one key reads no other keys.": [
                "tests/core/identity/test_known_keys.py::test_a_change_reads_the_keys_that_it_touches_and_no_others",
                "tests/core/identity/test_authenticator.py::test_a_change_of_limits_reads_none_of_the_account_s_keys",
            ],
            "A revoked key is refused at once, and what runs for it ends.": [
                "tests/doors/test_revocation.py",
                "tests/doors/test_http_keys.py::test_a_revoked_key_is_401_at_once_and_says_that_it_was_revoked",
            ],
            "An expired key is refused to the millisecond, and a key ends no later than the one that made it.": [
                "tests/core/identity/test_known_keys.py::test_an_expired_key_is_refused_to_the_millisecond_and_leaves_memory",
                "tests/doors/test_http_keys.py::test_a_key_ends_no_later_than_the_one_that_made_it",
            ],
            "Reports that nobody waits for any more keep no revocation and no balance waiting.": [
                "tests/doors/test_reports.py::test_reports_of_clients_that_left_end_and_hold_up_no_revocation_and_no_balance",
                "tests/core/store/sqlite/test_reports.py",
            ],
            "A report has a deadline, and one that is given up says so.": [
                "tests/core/store/sqlite/test_reports.py::test_a_report_that_takes_too_long_is_given_up_and_says_so",
                "tests/doors/test_reports.py::test_a_report_beyond_its_time_is_503_and_names_what_to_do",
            ],
            "What a limit refuses is in the log with its reason, whatever was asked by whichever door; however many come, they are few rows and no money.": [
                "tests/doors/test_refused_requests.py",
            ],
            "Sums by the hour are kept with the settlement, agree with the requests and outlive them.": [
                "tests/core/observe/test_hourly_sums.py",
            ],
            "Reports of days that are over read sums of these, and tell what the hours do, whatever is booked into them later.": [
                "tests/core/observe/test_daily_sums.py",
                "tests/core/store/postgres/test_daily_sums.py",
            ],
            "Limits cannot be multiplied: all keys of an account share what it has, and a key and those that it made share the key's.": [
                "tests/doors/test_http_limits.py::test_minted_keys_have_what_their_account_has_and_no_more",
                "tests/doors/test_http_limits.py::test_a_limited_key_shares_its_limit_with_the_keys_that_it_makes",
                "tests/doors/test_http_limits.py::test_revoking_and_making_keys_gains_nothing",
                "tests/core/test_limits.py::test_whatever_the_keys_of_an_account_do_it_has_what_it_may_and_no_more",
                "tests/core/identity/test_authenticator.py",
            ],
            "Several processes have one limit where they share a Valkey, exactly, and tell it as one process does.": [
                "tests/engines/test_exactness.py",
                "tests/engines/test_shared_limits.py",
                "tests/engines/test_two_gateways.py",
            ],
            "While Valkey is away nobody waits for it, each process allows its share, and it is told everything once it is back.": [
                "tests/engines/test_valkey_client.py",
                "tests/core/test_valkey_address.py",
                "tests/core/test_limiting.py",
                "tests/core/test_limits_alone.py",
                "tests/engines/test_shared_limits.py::test_each_replica_has_its_share_while_valkey_is_away",
                "tests/engines/test_shared_limits.py::test_what_was_admitted_meanwhile_counts_once_it_is_back",
                "tests/engines/test_two_gateways.py::test_a_gateway_serves_without_valkey_and_says_so",
            ],
            "Over HTTP limits are lowered and never lifted; the command line raises them.": [
                "tests/doors/test_http_keys.py::test_limits_are_lowered_and_never_lifted",
                "tests/doors/test_http_limits.py::test_limits_that_the_operator_sets_are_noticed_by_a_running_server",
            ],
            "A change of a key writes only what it was given.": [
                "tests/core/identity/test_keys.py::test_a_change_touches_only_what_it_names",
                "tests/core/identity/test_keys.py::test_changes_of_different_limits_at_once_all_stay",
            ],
            "Of several credentials the good one counts, in whichever header; one that stands alone and is none is 401 and never a guest.": [
                "tests/doors/test_credentials.py",
                "tests/doors/test_http_refusals.py::test_a_wrong_credential_is_401_everywhere_and_never_a_guest",
            ],
            "A key does what its scopes say, and a new one no more than its maker.": [
                "tests/doors/test_scopes.py",
                "tests/doors/test_http_keys.py::test_a_new_key_has_the_scopes_of_its_maker_or_fewer",
                "tests/core/identity/test_keys.py",
            ],
            "A test key is answered by the demo on every surface, the same each time, is never billed, and reads nothing of its account.": [
                "tests/doors/test_http_money.py::test_the_demo_tells_a_test_key_the_same_each_time_and_no_backend_is_asked",
                "tests/doors/test_billing.py::test_a_test_key_reads_nothing_of_its_account",
            ],
            "Guests have no keys and no money of their own.": [
                "tests/core/identity/test_keys.py::test_guests_have_no_keys",
                "tests/core/ledger/test_ledger.py::test_guests_are_given_no_money",
            ],
            "Guests have free models alone and are counted by address, IPv6 guests by their network and their site.": [
                "tests/doors/test_http_limits.py::test_a_guest_may_use_only_models_that_are_open_to_guests_and_one_choice",
                "tests/doors/test_http_limits.py::test_guests_are_counted_by_address_and_the_right_most_untrusted_one_counts",
                "tests/doors/test_http_limits.py::test_guests_of_one_ipv6_site_have_more_together_than_one_of_them",
                "tests/core/identity/test_accounts.py",
            ],
            "Every answer says what is left of what is used up first, and a 429 of the day says the day's remaining and reset.": [
                "tests/doors/test_http_limits.py",
                "tests/core/test_limits.py",
                "tests/doors/test_http_limits.py::test_a_day_that_leaves_less_than_the_minute_is_told_with_its_own_reset",
            ],
            "The day's counts outlive a restart and a crash.": [
                "tests/core/test_day_counts.py",
                "tests/doors/test_day_counts.py",
            ],
            "Who has no requests left is told so before the body is read, and not counted.": [
                "tests/doors/test_http_bodies.py::test_who_has_no_requests_left_is_told_so_before_the_body",
            ],
            "The list of models needs no key, also with guests switched off, unless it is closed.": [
                "tests/doors/test_public_models.py",
            ],
            "A repetition with an `Idempotency-Key` is answered the same for 24 hours, and nothing is made twice.": [
                "tests/doors/test_idempotency.py",
                "tests/core/test_idempotency.py",
            ],
            "Whoever signs in, pays, repeats a request or is let in by a person may come to another replica at each step.": [
                "tests/engines/test_any_replica.py",
            ],
            "Of several replicas one at a time answers what bears an `Idempotency-Key`, and another once that one is dead.": [
                "tests/core/store/postgres/test_claims.py",
            ],
            "A key is listed, made, changed and revoked by its own account alone.": [
                "tests/doors/test_http_keys.py",
            ],
            "What a lease sets aside no other key can spend, and what is left of it returns when it ends.": [
                "tests/core/ledger/test_leases.py",
                "tests/core/ledger/test_tree.py",
                "tests/doors/test_leases.py",
            ],
            "A key that was made with a budget by a key ends with that one, and sees itself and what it made alone.": [
                "tests/doors/test_minted_keys.py",
                "tests/doors/test_minted_sight.py",
            ],
            "A key that may mint over MCP, and no other, makes keys with budgets by a tool, which do inference alone and end with it.": [
                "tests/doors/test_mcp_budgets.py",
            ],
            "A key that was made for some models asks for those alone, and is told of no others.": [
                "tests/doors/test_key_models.py",
            ],
            "A key says of which models `auto` chooses for it, and how; a model of its pool that is gone is named and passed over.": [
                "tests/doors/test_key_routing.py",
                "tests/core/test_key_pools.py",
            ],
            "A key object tells when the key was used last and what it has spent, which is what usage says of it.": [
                "tests/doors/test_key_uses.py",
            ],
            "A key that is given another secret stays what it was; the old one ends when that was asked for, with what runs for it and nothing else.": [
                "tests/doors/test_rotation.py",
            ],
            "A key that is bound to networks is of use from these alone, through every door, and so is whatever it makes.": [
                "tests/doors/test_key_networks.py",
                "tests/core/test_networks.py",
            ],
            "Every refusal has a code that is documented, and says what to change.": [
                "tests/core/test_errors.py",
                "tests/test_tidy.py::test_every_error_code_that_is_raised_has_a_row_and_every_row_is_documented",
                "tests/doors/test_http_refusals.py",
            ],
        },
    ),
    "Surfaces": Area(
        ["README.md", "docs/messages.md", "docs/backends.md", "docs/agents.md", "docs/openrouter.md"],
        {
            "Every surface is held to one contract in its dialect: body, answer, stream cut at every byte, each shape of an error, usage, leaving.": [
                "tests/contracts/test_translations.py",
                "tests/contracts/test_pairs.py",
            ],
            "Every answer that was captured of a real vLLM comes out right.": [
                "tests/doors/test_http_captures.py",
            ],
            "Every operation of inference runs in the suites of money, fail-over, departure and canaries.": [
                "tests/doors/test_http_money.py::test_every_operation_of_inference_has_its_surface_in_these_suites",
            ],
            "A chat reaches its backend as it was sent but for what a table names, and what is dropped is told.": [
                "tests/doors/test_http_forwarding.py",
                "tests/core/dialects/test_vllm_fields.py",
                "tests/core/dialects/test_chat_vllm.py",
                "tests/core/surfaces/test_chat.py",
            ],
            "A stream reaches its client as the backend made it, but for the names and its end, however the network cuts it.": [
                "tests/core/surfaces/test_splice.py",
                "tests/core/surfaces/test_events.py",
                "tests/core/test_chat_streams.py",
            ],
            "Completions take a text, several, or token ids; what no price counts is refused.": [
                "tests/doors/test_completions.py",
            ],
            "Embeddings take all of vLLM's forms, are paid by the prompt, and a model is asked for nothing that it is not there for.": [
                "tests/doors/test_embeddings.py",
            ],
            "Rerank and score answer as the backend does, and are paid by the prompt.": [
                "tests/doors/test_scores.py",
            ],
            "Two million token ids in a request are counted and checked, sent on as they came, and hold up nobody.": [
                "tests/core/test_token_ids.py",
            ],
            "Messages answer as Anthropic's API does: events, errors, `request-id`, limits and counts of a prompt.": [
                "tests/doors/test_messages.py",
                "tests/core/surfaces/test_message_events.py",
                "tests/core/dialects/test_messages_vllm.py",
            ],
            "The attribution line of Claude Code is removed before a backend sees it.": [
                "tests/core/dialects/test_messages_vllm.py::test_the_attribution_line_is_removed_and_an_empty_prompt_with_it",
            ],
            "Responses are stateless: nothing is stored, state is refused, and tools that a server would run are dropped and named.": [
                "tests/doors/test_responses.py",
                "tests/core/dialects/test_responses_vllm.py",
            ],
            "A stream of responses is numbered without a gap and ends with the event that its status says.": [
                "tests/core/surfaces/test_responses_stream.py",
            ],
            "The list of models comes in Anthropic's shape for callers that send its version, with every alias.": [
                "tests/doors/test_aliases.py::test_anthropic_s_list_has_every_name",
                "tests/doors/test_aliases.py::test_one_model_is_told_in_anthropic_s_shape_and_refused_in_it",
            ],
            "Codex is told what is final by one event, so that it does not ask again.": [
                "tests/doors/test_responses.py::test_codex_is_told_what_is_final_by_one_event",
                "tests/doors/test_responses.py::test_codex_is_told_by_status_what_may_be_tried_again",
            ],
            "Tokenize and detokenize are free, counted as listings, bounded and recorded nowhere.": [
                "tests/doors/test_tokens.py",
            ],
            "Every other endpoint of OpenAI's and Anthropic's APIs is refused in that API's shape and words.": [
                "tests/doors/test_unserved.py",
            ],
            "Everything answers under both prefixes, and a path that is nearly one is told the one that is meant.": [
                "tests/doors/test_openapi.py::test_everything_answers_under_both_prefixes",
                "tests/doors/test_http_paths.py",
            ],
            "A model answers to its aliases on every surface under the name that was asked for, and a name with two uses is refused at start.": [
                "tests/doors/test_aliases.py",
                "tests/core/test_config.py::TestFaults::test_a_bad_value_is_refused_with_its_place_and_what_to_write",
            ],
            "An image by its address is fetched from public servers alone, once a request, within bounds of size, time and number, and for keys only.": [
                "tests/doors/test_remote_images.py",
                "tests/core/image_fetching/test_fetcher.py",
                "tests/core/image_fetching/test_public_address.py",
                "tests/core/image_fetching/test_resolver.py",
                "tests/core/test_image_url.py",
            ],
            "No backend is sent an address that it might fetch.": [
                "tests/core/dialects/test_no_address.py",
            ],
            "Inference is refused to the countries that the operator names, told by a proxy that is trusted or by a local file, and counted without an address.": [
                "tests/core/test_regions.py",
                "tests/doors/test_regions.py",
            ],
            "An image is taken as data, where gateway and model take images, unless it is on the blocklist.": [
                "tests/core/test_images.py",
            ],
            "The list of models is told as OpenRouter reads it, by the rules of its document.": [
                "tests/doors/test_openrouter.py",
                "tests/http_api/test_models.py",
            ],
            "A chat may say which models and providers answer it, in what order and at what price, as at OpenRouter.": [
                "tests/providers/test_routes.py",
                "tests/doors/test_tool_routes.py",
                "tests/doors/test_routed_surfaces.py",
                "tests/core/inference/test_fallbacks.py",
            ],
            "A key is told what it may spend and has spent, and an answer what it used, as OpenRouter's clients ask.": [
                "tests/doors/test_openrouter_account.py",
            ],
            "The catalog tells what each model can, its window and its price, and is the same each time.": [
                "tests/core/test_catalog.py",
                "tests/doors/test_http_operations.py",
            ],
            "`/openapi.json` tells every operation, who may ask, and each answer and refusal as it is.": [
                "tests/doors/test_openapi.py",
            ],
            "No request that the document allows or forbids gets an answer that it does not tell, or fails the gateway; none is taken that it forbids.": [
                "tests/fuzz/test_document.py",
            ],
            "`/docs` shows the same to people as one page without scripts, and of their key no more than its beginning.": [
                "tests/doors/test_reference.py",
            ],
            "Answers in one piece tell the time that the gateway itself took, on every surface.": [
                "tests/doors/test_overhead.py",
            ],
            "Records, usage and metrics name the surface that a request was asked in.": [
                "tests/doors/test_surfaces_told.py",
            ],
            "OpenAI's SDK reads chats, streams, tools, refusals and models as its own objects.": [
                "tests/doors/test_http_sdk.py",
            ],
            "Each SDK of OpenAI and Anthropic, Python and Node, makes every call in every case; what is refused is free and asked as often as said.": [
                "tests/clients/test_http_sdks.py",
            ],
            "The SDKs of OpenAI, Anthropic and Google are answered by providers where another base URL alone leads.": [
                "tests/clients/test_provider_clients.py",
            ],
            "Claude Code, Codex, OpenCode and Continue run on the lines that their page has, and what is refused is free.": [
                "tests/clients/test_agents.py",
            ],
            "A long answer in one piece is put together from a stream, and is the body that the backend would have sent.": [
                "tests/doors/test_collected_answers.py",
                "tests/core/surfaces/test_collected.py",
                "tests/core/surfaces/test_collector.py",
                "tests/core/surfaces/test_whole_answer.py",
                "tests/core/test_chat_collected.py",
            ],
            "Older servers of vLLM answer whatever limit the caller names.": [
                "tests/doors/test_old_vllm.py",
                "tests/doors/test_output_limits.py",
            ],
            "Values that break what reads them are refused in words, in every body, query and path.": [
                "tests/doors/test_odd_values.py",
                "tests/core/test_text.py",
            ],
            "The demo answers every surface without a backend, says that it is a demo, and is bounded.": [
                "tests/core/upstream/test_demo.py",
                "tests/core/upstream/test_demo_bounds.py",
            ],
        },
    ),
    "Choosing the model": Area(
        ["docs/routing.md"],
        {
            "A prompt's task and its amount of work are read in a bounded time, and never fail a request.": [
                "tests/core/routing/classifier/test_classifier.py",
                "tests/core/routing/classifier/test_complexity.py",
                "tests/core/routing/classifier/test_weights.py",
                "tests/core/test_prompt_tasks.py",
                "tests/core/routing/test_latest.py",
            ],
            "The weights come of a script: the same bytes for the same prompts, and bars that they have to reach on prompts of unseen sources.": [
                "tests/core/routing/classifier/test_training.py",
            ],
            "`auto` is answered by the model that is chosen, or by the next, on one hold; the answer tells which and why.": [
                "tests/providers/test_auto.py",
                "tests/doors/test_auto_told.py",
            ],
            "Who cannot serve a request is passed over by name and reason; the mode decides among the others as a person would.": [
                "tests/core/routing/test_deciding.py",
                "tests/core/test_optimization.py",
                "tests/core/routing/test_emphasis.py",
                "tests/core/routing/test_remembered.py",
            ],
            "The pool is what the request, else the key, else the settings name, of what generates text and its caller may use.": [
                "tests/core/routing/test_model_pool.py",
                "tests/doors/test_auto_listed.py",
            ],
            "What a model is expected to do well moves by judged outcomes, and by no fewer than thirty of a task.": [
                "tests/core/routing/test_quality.py",
            ],
            "A caller may say how good an answer to its own request was: the last score counts, once, and moves whom the settings say.": [
                "tests/doors/test_feedback.py",
                "tests/core/routing/test_outcome_book.py",
            ],
            "What an operator imports counts whole or not at all, its prompts are left nowhere, and what comes of it is shown and explained.": [
                "tests/test_routing_commands.py",
            ],
            "Where accounts share what they scored, none has more than a tenth of the weight.": [
                "tests/core/routing/test_pooling.py",
            ],
            "With outcomes, `cost` keeps the quality that is asked for at the cost that the table predicts; without any, no more is given up than is said.": [
                "tests/core/routing/test_operation.py",
                "tests/providers/test_auto_outcomes.py",
            ],
        },
    ),
    "Several backends": Area(
        ["docs/backends.md"],
        {
            "A conversation returns to the backend that has its beginning cached, unless that one is busier than the others.": [
                "tests/core/routing/test_rank.py",
                "tests/doors/test_http_pool.py::test_a_conversation_goes_back_to_where_it_began_and_others_spread",
            ],
            "A model's offers are asked in their order, and each answer is billed at the price of the offer that made it.": [
                "tests/core/inference/test_offers.py",
            ],
            "Before its first token a request goes to another backend within the same hold; after it never.": [
                "tests/doors/test_http_failover.py",
                "tests/core/test_chat_attempts.py",
            ],
            "A backend that fails, fills up or shuts down is left alone and tried again.": [
                "tests/core/upstream/test_breaker.py",
                "tests/doors/test_http_pool.py",
            ],
            "Repetitions draw on a budget, so that a sick fleet is asked little more than what clients ask.": [
                "tests/core/upstream/test_budget.py",
            ],
            "A backend that is slow and works is waited for, and one that is stuck is found.": [
                "tests/core/upstream/test_attempt.py",
                "tests/core/dialects/test_gauges.py",
            ],
            "A backend that never answers does not delay the start, and two spellings of one server are refused as one.": [
                "tests/core/upstream/test_start.py",
                "tests/core/test_config.py::TestSources::test_two_spellings_of_one_server_are_one",
            ],
            "A refusal of a backend is told in the surface's words, without paths, addresses or the backend's name of the model.": [
                "tests/core/dialects/test_vllm_errors.py",
                "tests/core/dialects/test_redaction.py",
            ],
            "Whatever a backend answers, others get whole answers and the books balance.": [
                "tests/attack/test_mutated_answers.py",
                "tests/core/upstream/test_transport.py",
                "tests/core/upstream/test_upload.py",
            ],
            "A stream that waits is kept alive, before its first token and amid its answer, by what its surface has for that.": [
                "tests/http_api/test_event_stream.py",
                "tests/doors/test_http_pool.py::test_a_stream_that_waits_gets_comments_and_then_its_answer",
                "tests/doors/test_http_pool.py::test_a_stream_that_pauses_gets_comments_and_then_the_rest_of_its_answer",
                "tests/doors/test_messages.py::test_a_stream_that_is_silent_gets_pings_before_its_message_and_amid_it",
                "tests/doors/test_responses.py::test_a_request_that_waits_is_told_events_that_are_numbered_with_the_answers",
            ],
            "Answers of one request never reach another.": [
                "tests/core/test_chat_streams.py::test_the_answer_to_another_request_is_an_error_and_its_connection_is_closed",
                "tests/core/test_chat_streams.py::test_an_answer_that_nobody_asked_for_reaches_nobody_though_it_comes_late",
            ],
            "A prompt is counted by a backend where a bill or a window rests on it.": [
                "tests/core/inference/test_counting.py",
            ],
        },
    ),
    "Operations": Area(
        ["docs/operations.md", "docs/configuration.md", "docs/performance.md"],
        {
            "Requests that come in the same turns of the event loop go on together, within 2 ms.": [
                "tests/core/test_cohort.py"
            ],
            "A command of a new version changes nothing beneath a running server, and says why; a newer schema is refused.": [
                "tests/core/store/sqlite/test_upgrade.py",
                "tests/core/store/sqlite/test_migrations.py",
            ],
            "A database of the release that had rows for holds opens with its books, its backup too, and what it left to bill is billed once.": [
                "tests/core/store/sqlite/test_migrated_holds.py",
            ],
            "One server has a data folder at a time.": [
                "tests/core/store/test_sole.py",
            ],
            "A backup under load is a whole database whose books agree; it overwrites nothing, and is refused while bills wait to be written.": [
                "tests/core/store/sqlite/test_backup.py",
                "tests/doors/test_money_both_doors.py::test_a_backup_taken_under_load_is_a_whole_database_whose_books_agree",
                "tests/test_commands.py::test_no_backup_is_made_while_bills_wait_to_be_written",
            ],
            "A restored backup is what was backed up, and nothing is thrown away.": [
                "tests/test_restore.py",
                "tests/core/store/sqlite/test_restore.py",
            ],
            "A backup that was copied by hand over a database is found before anything is served.": [
                "tests/test_restore.py::test_a_backup_that_was_copied_over_a_log_is_found_and_put_in_order",
            ],
            "The database's log shrinks again after a backup or a check.": [
                "tests/core/store/sqlite/test_checkpoints.py",
                "tests/core/store/sqlite/test_write_ahead_log.py",
            ],
            "A database is copied into PostgreSQL whole or not at all, so that whoever serves from there knows all that was known.": [
                "tests/core/store/postgres/test_filling.py",
            ],
            "Servers of the next version begin beside those of this one where its schema only adds, and else say who has to end first.": [
                "tests/core/store/postgres/test_upgrades.py",
                "tests/engines/test_rolling_upgrade.py",
            ],
            "Whether a database is sound, and of which schema, is told by a command's exit status, which changes nothing.": [
                "tests/test_db_command.py",
            ],
            "The database outlives locks, full disks and bad writes, and one bad write costs no other anything.": [
                "tests/core/store/contract/test_contract.py",
                "tests/core/store/contract/test_listening.py",
                "tests/core/store/postgres/test_outages.py",
                "tests/core/store/postgres/test_batches.py",
                "tests/engines/test_database_away.py",
                "tests/core/store/postgres/test_replicas.py",
                "tests/core/store/postgres/test_announcements.py",
                "tests/core/store/postgres/test_wallets.py",
                "tests/core/store/postgres/test_links.py",
                "tests/core/store/postgres/test_calls.py",
                "tests/core/store/postgres/test_words.py",
                "tests/core/store/postgres/test_schema.py",
                "tests/core/store/postgres/test_statements.py",
                "tests/core/store/postgres/test_served.py",
                "tests/core/store/sqlite/test_store.py",
                "tests/core/store/sqlite/test_groups.py",
                "tests/core/store/sqlite/test_writer.py",
            ],
            "Database, log, backups and folder are the owner's alone.": [
                "tests/core/store/sqlite/test_private.py",
            ],
            "Every error code is counted once in the refusals, whatever was refused.": [
                "tests/doors/test_http_operations.py::test_refusals_are_counted_by_their_code",
                "tests/doors/test_http_operations.py::test_what_is_refused_before_it_is_a_request_is_counted_once",
            ],
            "One line a minute names the addresses that were refused most.": [
                "tests/core/observe/test_refusals.py",
            ],
            "The log has one line for each change of a backend's state and for each kind of failure a minute, and none for each request.": [
                "tests/doors/test_http_failover.py::test_the_log_has_a_line_for_each_state_of_a_backend_and_each_kind_of_failure_and_none_for_each_request",
                "tests/core/observe/test_failures.py",
            ],
            "A death in mid-stream is counted as an attempt that failed.": [
                "tests/core/test_chat_streams.py::test_an_answer_that_breaks_off_counts_once_as_an_attempt_that_failed",
            ],
            "Metrics tell of money, holds and the ledger, and each is in the table of metrics.": [
                "tests/doors/test_http_operations.py::test_metrics_tell_of_money_and_of_the_ledger",
                "tests/doors/test_http_operations.py::test_metrics_tell_what_requests_hold",
                "tests/test_tidy.py::test_every_metric_is_in_the_table_of_metrics",
            ],
            "Metrics tell which version runs, and which models no backend serves.": [
                "tests/doors/test_http_operations.py::test_metrics_tell_what_runs",
                "tests/doors/test_http_operations.py::test_metrics_tell_which_models_no_backend_serves",
            ],
            "The log is JSON where it is asked for, with times in UTC and their zone.": [
                "tests/core/observe/test_logs.py",
            ],
            "An operator finds any request by its id or its client's.": [
                "tests/core/observe/test_history.py::test_an_operator_finds_a_request_by_its_id_or_the_latest_by_their_client_s",
                "tests/test_commands.py::test_a_request_is_found_by_its_id_or_its_client_s",
                "tests/core/observe/test_history.py",
            ],
            "Every command takes `--json`, `--config` and `--data-dir`, and says by its exit status what came of it.": [
                "tests/test_commands.py",
                "tests/test_command_line.py",
            ],
            "The line that makes a key works as printed, whichever configuration is served.": [
                "tests/test_commands.py::test_the_line_that_makes_a_key_works_with_whichever_configuration_is_served",
            ],
            "A configuration is checked before it is served, all its faults at once, with the nearest name and without a value.": [
                "tests/test_commands.py::test_a_configuration_is_checked_before_it_is_served",
                "tests/core/test_config.py",
            ],
            "Lists in variables are read as commas and as JSON.": [
                "tests/core/test_config.py::TestSources::test_lists_in_variables_are_separated_by_commas",
                "tests/core/test_config.py::TestSources::test_lists_in_variables_may_be_json",
            ],
            "Links of a service that an orchestrator puts into the environment are passed over and named.": [
                "tests/core/test_config.py::TestSources::test_the_links_of_a_service_are_passed_over",
                "tests/test_commands.py::test_links_of_a_service_that_are_passed_over_are_named",
            ],
            "A failed background loop goes on and says so; a dead one is a failed health and a gauge.": [
                "tests/core/test_loops.py",
                "tests/doors/test_http_health.py::test_a_dead_background_loop_is_down_and_in_a_gauge",
            ],
            "Of several gateways on one database any may be killed or stand still: the others serve, every bill is right, and what it held and had under way is given to others.": [
                "tests/engines/test_processes.py",
            ],
            "Gateways whose database is another one all of a sudden, without what was committed last, go on by what that has: its books agree, and no money stays set aside.": [
                "tests/engines/test_failover.py",
                "tests/core/store/postgres/test_replicas.py",
            ],
            "Several processes of one machine serve one address: one that dies is begun again, signals reach all, and metrics of all are told by each.": [
                "tests/test_supervisor.py",
                "tests/http_api/test_worker_metrics.py",
                "tests/engines/test_workers.py",
            ],
            "SIGTERM announces the end and lets answers finish; SIGHUP, SIGUSR1 and SIGUSR2 end nothing.": [
                "tests/doors/test_http_draining.py",
                "tests/core/test_lifecycle.py",
                "tests/leaks/test_termination.py",
            ],
            "Loopback is not the operator where a proxy speaks for somebody, and the log names the setting that would trust it.": [
                "tests/doors/test_http_health.py::test_loopback_is_not_the_operator_where_a_proxy_speaks_for_somebody",
                "tests/doors/test_http_health.py::test_metrics_asked_for_through_an_untrusted_proxy_name_the_setting_in_the_log",
                "tests/core/test_address.py",
            ],
            "Health tells anybody one word, and the operator why, for each backend.": [
                "tests/doors/test_http_health.py",
            ],
            "The public page of the last day tells as much as it is set to, and outlives a restart.": [
                "tests/doors/test_stats.py",
                "tests/core/observe/test_activity.py",
                "tests/core/observe/test_model_ages.py",
            ],
            "How each part of the service was is counted minute by minute for 90 days, and what was told of incidents is kept.": [
                "tests/core/observe/test_status_board.py",
            ],
            "A wall clock that somebody sets locks nobody out, and lets limits and grants go on.": [
                "tests/core/test_clock.py",
                "tests/core/test_limits.py::test_a_clock_that_is_set_back_locks_nobody_out",
            ],
            "A run of ten minutes with faults leaves no memory, socket, task, hold or slot behind.": [
                "tests/soak/test_soak.py",
                "tests/leaks/test_abandoned.py",
            ],
            "Every answer bears the id under which it is recorded and billed, and a client's own id is recorded beside it.": [
                "tests/doors/test_http_forwarding.py::test_a_request_id_is_ours_and_the_client_s_own_is_echoed_and_recorded_beside_it",
                "tests/doors/test_usage.py::test_every_fact_of_a_request_is_in_its_record",
            ],
        },
    ),
    "Deployment": Area(
        ["docs/deploy.md", "docs/alerts.md"],
        {
            "The image, the compose file, the chart and the units are what the programs for their kinds take, and say of the gateway what is so.": [
                "make test-deploy",
                "tests/deploy/test_image.py",
                "tests/deploy/test_chart.py",
                "tests/deploy/test_compose.py",
                "tests/deploy/test_unit.py",
            ],
            "Replicas behind the balancer whose configuration is here are one gateway: one that is away is passed over, and tokens leave as they come.": [
                "make test-deploy",
                "tests/deploy/test_balancer.py",
            ],
            "Every alert is given where it should be and nowhere else, and says what to do; each metric of it and of the dashboard is one that a live gateway tells.": [
                "make test-deploy",
                "tests/deploy/test_watching.py",
                "tests/deploy/test_promql.py",
                "tests/core/observe/test_metrics.py",
            ],
            "Any setting can be read from a file that a variable names, so that no secret stands in an environment.": [
                "tests/core/test_config.py::TestFilesOfVariables::test_every_setting_can_be_read_from_a_file_that_its_variable_names",
                "tests/core/test_config.py::TestFilesOfVariables::test_a_bad_text_is_told_by_the_variable_that_named_the_file_and_not_shown",
            ],
            "A command tells how a gateway is, with the reasons on its own machine, by its status too.": [
                "tests/test_health_command.py",
            ],
        },
    ),
    "Hostile callers, fairness and HTTP": Area(
        ["SECURITY.md", "docs/threat-model.md"],
        {
            "No single request keeps other clients waiting.": [
                "tests/attack/test_dear_requests.py",
            ],
            "What a caller can have the gateway keep in memory is bounded, by a share of its own.": [
                "tests/attack/test_kept.py",
                "tests/attack/test_pools.py",
                "tests/core/test_bytes_in_flight.py",
                "tests/doors/test_http_answers_in_memory.py",
            ],
            "A body is bounded in size, in the time that it takes, and in how much its JSON holds before it is parsed.": [
                "tests/doors/test_http_bodies.py",
                "tests/core/test_json_bounds.py",
            ],
            "A compressed body is read within the limit of a body.": [
                "tests/doors/test_http_encodings.py",
            ],
            "Whatever bytes or values clients send, the server answers and keeps nothing.": [
                "tests/attack/test_mutated_bytes.py",
                "tests/attack/test_mutated_json.py",
                "tests/attack/test_overspend.py",
            ],
            "A head that can be read in two ways is refused.": [
                "tests/http_api/test_head.py",
            ],
            "A connection serves requests in their order, and one that is not read or not sent is hung up on.": [
                "tests/http_api/test_connection.py",
                "tests/http_api/test_repeated_heads.py",
            ],
            "A burst of clients is taken in at once, and what all of them need is read once.": [
                "tests/http_api/test_acceptor.py",
                "tests/core/test_shared_reads.py",
                "tests/core/ledger/test_bursts.py::test_a_burst_on_a_wallet_that_is_not_known_yet_reads_it_once",
            ],
            "One address may have only so many connections, and descriptors are left to those that are served.": [
                "tests/http_api/test_census.py",
            ],
            "Nothing is answered under a foreign name, and the refusal names the setting that would let it in.": [
                "tests/doors/test_http_hosts.py",
                "tests/core/test_hosts.py",
            ],
            "Pages of named origins read both doors and their headers, those on loopback MCP alone, and others nothing.": [
                "tests/doors/test_cors.py",
                "tests/core/test_origins.py",
                "tests/clients/test_browser.py",
            ],
            "A client that leaves frees its backend at once.": [
                "tests/doors/test_http_departure.py",
                "tests/doors/test_any_server.py::test_a_client_that_leaves_while_its_answer_is_made_frees_its_backend",
            ],
            "The HTTP side is an ordinary ASGI app that serves on any server, or in process.": [
                "tests/doors/test_any_server.py",
            ],
        },
    ),
    "Privacy": Area(
        ["docs/privacy.md"],
        {
            "A request leaves none of its content in a file, a log line or a metric, however it ends.": [
                "tests/doors/test_http_canary.py",
            ],
            "No words of a request are logged at any level.": [
                "tests/doors/test_mcp_lifetimes.py::test_no_words_of_a_request_are_logged_at_any_level",
            ],
            "Keys are kept as their hash alone and shown once.": [
                "tests/core/identity/test_keys.py::test_the_key_itself_is_kept_nowhere",
                "tests/doors/test_http_canary.py::test_keys_stand_in_no_file_and_no_log_line",
            ],
            "Content is let go of with its request.": [
                "tests/core/test_chat_let_go.py",
                "tests/core/inference/test_remote_images_let_go.py",
            ],
            "The log that a session of MCP asked for tells how its calls went, and nothing of their content.": [
                "tests/doors/test_mcp_asking.py::test_a_session_that_asked_for_a_log_hears_how_its_calls_went_and_nothing_of_their_content",
            ],
            "Secrets of the settings are in no text that shows them.": [
                "tests/core/test_config.py::TestSecrets::test_a_secret_is_in_no_repr",
                "tests/doors/test_topups.py::test_the_secrets_of_stripe_are_in_no_file_and_no_repr",
            ],
            "A backend learns nothing of the caller but a trace that the client sent.": [
                "tests/doors/test_http_forwarding.py::test_only_traces_pass_from_a_client_s_headers_to_a_backend",
                "tests/core/test_trace_context.py",
            ],
            "Accounts share no prefix cache in chats.": [
                "tests/doors/test_http_forwarding.py::test_accounts_have_cache_salts_of_their_own",
            ],
            "The gateway connects to nobody but the backends that its operator names, Stripe, an issuer, and the servers of images.": [
                "tests/test_tidy.py::test_the_gateway_connects_to_nobody_but_backends_stripe_an_issuer_and_the_servers_of_images_and_tools",
                "tests/core/image_fetching/test_fetcher.py::test_nothing_is_sent_but_what_is_asked_for",
            ],
        },
    ),
    "The path of a request": Area(
        ["ARCHITECTURE.md"],
        {
            "A request is admitted once, and refused before a backend is asked where it must be.": [
                "tests/core/test_chat_admission.py",
            ],
            "However a request ends, it is settled or voided, recorded and let go of.": [
                "tests/core/test_chat.py",
                "tests/core/test_chat_bills.py",
                "tests/core/test_chat_ends.py",
            ],
            "A request costs the same over HTTP and over MCP, also while the database is out.": [
                "tests/doors/test_money_both_doors.py",
                "tests/doors/test_http_money.py",
            ],
            "A wait for the ledger ends when its time is over, whoever else waits.": [
                "tests/core/ledger/test_wait_limit.py",
            ],
            "An engine that loses, reorders, repeats, halves, tears, or tells what is not on the disk yet, does not pass for one of ours.": [
                "tests/core/store/contract/test_broken.py",
            ],
            "Each write and each read has one executor, and no other module knows SQL.": [
                "tests/core/store/sqlite/test_executors.py",
                "tests/test_tidy.py::test_the_store_alone_knows_sqlite_and_sql",
                "tests/test_tidy.py::test_no_engine_is_named_outside_the_store",
            ],
            "A key is read when it is first shown and known from then on.": [
                "tests/core/identity/test_known_keys.py",
            ],
        },
    ),
    "The code itself": Area(
        ["docs/contributing.md", "docs/glossary.md", "docs/index.md"],
        {
            "Modules import in no circle, and a room only what the drawing allows; a circle that is planted is found.": [
                "tests/test_tidy.py::test_modules_import_in_no_circle",
                "tests/test_tidy.py::test_a_module_imports_what_its_room_may",
                "tests/test_import_graph.py",
            ],
            "No class on the path of a request is large, and only the file of a surface or dialect asks for its name.": [
                "tests/test_tidy.py::test_no_class_on_the_path_of_a_request_has_more_than_15_attributes_or_20_methods",
                "tests/test_tidy.py::test_only_the_own_file_of_a_surface_or_dialect_asks_for_its_name",
                "tests/test_shapes.py",
            ],
            "No two classes have one name, and the glossary's words are theirs.": [
                "tests/test_class_names.py",
                "tests/test_tidy.py::test_no_two_classes_have_one_name",
                "tests/test_tidy.py::test_every_class_that_the_glossary_names_exists",
            ],
            "No test rests on a clock.": [
                "tests/test_waits.py",
            ],
            "No test is blamed for a connection that another left open.": [
                "tests/test_listening.py",
            ],
            "Every regular expression over what others write is linear by its form.": [
                "tests/test_expressions.py",
            ],
            "Tables of tools, metrics, commands, prompts, routes and settings in the documents are those of the code.": [
                "tests/test_tidy.py::test_every_tool_has_a_section_with_all_its_arguments",
                "tests/test_tidy.py::test_every_command_is_in_the_table_of_commands",
                "tests/test_tidy.py::test_every_route_is_in_the_readme",
                "tests/core/test_config.py::TestReference::test_the_reference_page_is_current",
            ],
            "There is one conftest, and its fixtures are nowhere else.": [
                "tests/test_tidy.py::test_there_is_one_conftest_and_its_fixtures_are_nowhere_else",
            ],
            "Every page of the documents is linked, and what they name is there: pages, tests, commands, metrics.": [
                "tests/test_tidy.py::test_every_page_of_the_docs_is_linked_from_the_index",
                "tests/test_tidy.py::test_every_command_that_is_named_anywhere_exists",
                "tests/test_tidy.py::test_every_metric_that_is_named_anywhere_exists",
                "tests/test_tidy.py::test_a_link_within_the_project_leads_somewhere",
                "tests/test_tidy.py::test_every_test_that_a_page_names_exists",
            ],
            "The drawing of tables has every table, and migrations are numbered one by one.": [
                "tests/test_tidy.py::test_the_architecture_draws_every_table",
                "tests/test_tidy.py::test_migrations_are_numbered_one_by_one",
            ],
            "An import inside a function gives its reason, and every module says what it is.": [
                "tests/test_tidy.py::test_an_import_inside_a_function_gives_its_reason",
                "tests/test_tidy.py::test_every_module_says_what_it_is",
            ],
            "Lint and strict types hold for the product, its tests, benchmarks and scripts.": [
                "make lint",
                "make types",
            ],
            "Configurations and command lines that pages show work as written, and what they say of defaults, make targets and dependencies is so.": [
                "tests/test_pages.py",
            ],
            "Every promise has its tests, and every file of tests a promise.": [
                "tests/test_promises.py",
            ],
        },
    ),
}
