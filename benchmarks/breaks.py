"""Breaks of the code that have names: what is taken out of which file, and the tests that must then fail.

NAMED once went unnoticed. FAULTS take out what mends a fault that parley had, one after the other: A are those that
were wrong without a word, B those that ended in a traceback, a hang or a misleading word. A fault's tests have its
number in their names: `pytest -k A5_` or `-k B07_` finds them. `mutants.py` tries them all.
"""

from __future__ import annotations

from typing import TypeAlias

Break: TypeAlias = tuple[str, str, str, tuple[str, ...]]
"""File of src, its text (which stands there once), what takes its place, tests."""

NAMED: dict[str, Break] = {
    "gradient clipping ignored": (
        "learners/training.py", 'self.learner.clip or float("inf")', 'float("inf")',
        ("learners/test_lightning.py::test_the_gradient_of_a_step_is_no_longer_than_the_clip",),
    ),
    "one seed for a whole match": (
        "play/arena.py", "seating.seed if seating.draw is None else seating.draw, request.id",
        "seating.seed if seating.draw is None else seating.draw",
        ("play/test_arena.py::test_every_request_has_a_seed_of_its_own_and_the_same_one_each_time",),
    ),
    "kl of offline PO": (
        "objectives/offline_po.py", '"kl": k_K.exp() - 1 - k_K', '"kl": k_K',
        ("objectives/test_objectives.py::test_the_metrics_of_offline_po_are_what_its_page_says",),
    ),
    "price_cached": (
        "backends/openai.py", "Prices(price_prompt, price_completion, price_cached)",
        "Prices(price_prompt, price_completion)",
        ("backends/test_answer.py::test_A2_cached_tokens_are_cheaper_where_they_can_be_so",),
    ),
    "Taboo's rule of short words": (
        "games/taboo/judges.py", "len(words) < 4", "len(words) < 3", ("games/test_taboo_judges.py::test_table",),
    ),
    "short words in Taboo's list": (
        "games/taboo/words.py", "len(word) > 2 and", "",
        ("games/test_taboo_words.py::test_the_top_words_have_three_letters_at_least",),
    ),
    "a plan cut in the middle": (
        "batches/plan.py", "(2 * done + size) * count // (2 * total)", "done * count // total",
        ("batches/test_plan.py",),
    ),
    "dealt padding": ("batches/plan.py", "[(micros[-1], False)]", "[(micros[0], True)]", ("batches/test_plan.py",)),
    "the random state's restoring": (
        "learners/checkpoint.py", 'torch.set_rng_state(file.get_tensor(f"{RANDOM}/cpu"))', "pass",
        ("learners/test_resume.py::test_random_numbers_go_on_where_the_checkpoint_left_them",),
    ),
    "the kept snapshot is the best on validation": (
        "run/loop.py", "row.policies[judge(run.config)[0]].validation[", "row.policies[judge(run.config)[0]].sampled[",
        ("run/test_kept.py",),
    ),
    "rows of W&B that went with a kill": (
        "report/trackers.py", "max(int(self._run.step), self._written())", "10**9 if self._written() else 0",
        ("report/test_trackers.py::test_wandb_goes_on_after_a_kill_and_says_everything_once",),
    ),
    "a rollback to a snapshot with an alarm": (
        "run/loop.py", "if not row.alarms])", "])",
        ("run/test_guards.py::test_a_forced_alarm_rolls_back_at_half_the_rate_in_a_league_too",),
    ),
    "a running mean outlives its policy's rollback": (
        "run/learning.py", "_state(run, policy, parents[policy])", "_state(run, policy, number - 1)",
        ("run/test_guards.py::test_a_forced_alarm_rolls_back_at_half_the_rate_in_a_league_too",),
    ),
    "a magnet that was rolled away": (
        "run/lineage.py", "return max(at for at in self.ancestors(policy, number) if at <= last)", "return last",
        ("run/test_guards.py::test_a_magnet_is_never_a_snapshot_that_was_rolled_away",),
    ),
    "alpha-rank's loser under strong selection": (
        "games/mixtures.py", "return -_log_sum(logs)", "return math.exp(-_log_sum(logs))",
        ("games/test_mixtures.py::test_alpha_rank_ranks_members_under_any_selection",),
    ),
    "an interval from one scenario": (
        "report/ratings.py", "if len(clusters) > 1:", "if clusters:",
        ("report/test_ratings.py::test_without_resamples_or_with_one_scenario_there_are_no_intervals",),
    ),
    "luck of a few rounds as a seat's gain": (
        "run/guards.py", "error *= t_quantile(len(before) + len(after) - 2) / NORMAL", "error *= 1.0",
        ("run/test_guards.py::test_fair_seats_rarely_raise_an_alarm_however_few_the_rounds",),
    ),
}  # fmt: skip

FAULTS: dict[str, Break] = {
    # a stored run's config is data
    "A1 any target of a stored config is built": (
        "cli/stored.py", "not _kept(target, kind)", "False",
        ("cli/test_stored.py::test_A1_a_node_that_is_no_game_is_refused_and_nothing_runs",),
    ),
    "A1 a stored node is not validated": (
        "cli/stored.py", "node_faults(plain, name)", "[]",
        ("cli/test_stored.py::test_A1_a_node_that_is_no_game_is_refused_and_nothing_runs",),
    ),
    "A1 a stored config reads the environment": (
        "cli/stored.py", "COMPUTED.search(value)", "False",
        ("cli/test_stored.py::test_A1_a_node_that_is_no_game_is_refused_and_nothing_runs",),
    ),
    "A1 a stored config says where prompts go": (
        "cli/stored.py", "(sends or runs) and value != own", "False",
        ("cli/test_stored.py::test_A1_prompts_and_keys_go_only_where_the_command_says",),
    ),
    "A1 a resolver by another key's name is computed": (
        "cli/stored.py", r'r"\$\{.*:", re.DOTALL', r'r"\$\{[^}]*:"',
        ("cli/test_stored.py::test_A1_no_resolver_runs_whose_name_another_key_holds",),
    ),
    "A1 a stored node composes options": (
        "cli/stored.py", '"defaults" in value and', "False and",
        ("cli/test_stored.py::test_A1_a_stored_node_names_no_options_for_hydra_to_compose",),
    ),
    "A1 a value that the command gives is refused as the run's": (
        "cli/of_run.py", "    _say(said, composed, old)\n", "",
        ("cli/test_stored.py::test_A1_a_value_that_the_command_gives_takes_the_place_of_the_runs",),
    ),
    "A1 a stored config asks a hub": (
        "cli/stored.py", '"key_env", "download")', '"key_env")',
        ("cli/test_stored.py::test_A1_nothing_is_sent_and_no_folder_run_from_any_depth_of_a_stored_node",),
    ),
    "A1 a stored list of servers is believed": (
        "cli/stored.py", '("url", "urls", "key_env", "download")', '("url", "key_env", "download")',
        ("cli/test_stored.py::test_A1_nothing_is_sent_and_no_folder_run_from_any_depth_of_a_stored_node",),
    ),
    "A1 lists of a stored node are not looked into": (
        "cli/stored.py", "    if isinstance(raw, list):\n        others", "    if False:\n        others",
        ("cli/test_stored.py::test_A1_nothing_is_sent_and_no_folder_run_from_any_depth_of_a_stored_node",),
    ),
    # what a server says of its tokens
    "A2 any number of tokens is believed": (
        "backends/answer.py", "value if type(value) is int and 0 <= value < 2**31 else None", "value",
        ("backends/test_answer.py::test_A2_usage_that_cannot_be_so_is_booked_at_the_most_it_can_cost",),
    ),
    "A2 more cached tokens than prompt": (
        "backends/answer.py", " or cached > prompt", "",
        ("backends/test_answer.py::test_A2_usage_that_cannot_be_so_is_booked_at_the_most_it_can_cost",),
    ),
    "A2 an unreadable usage costs nothing": (
        "backends/openai.py", "return ticket.most, facts", "return 0.0, facts",
        ("backends/test_answer.py::test_A2_a_lying_server_never_passes_the_ceiling_at_64_at_once",),
    ),
    "A2 a prompt of no tokens is believed": (
        "backends/answer.py", "if not prompt or sampled is None", "if prompt is None or sampled is None",
        ("backends/test_answer.py::test_A2_usage_that_cannot_be_so_is_booked_at_the_most_it_can_cost",),
    ),
    "A2 any number of trained tokens is believed": (
        "learners/hosted.py", "told, tokens = job.trained_tokens, count(job.trained_tokens)",
        "told = tokens = job.trained_tokens",
        ("learners/test_hosted.py::"
         "test_A2_a_services_trained_tokens_that_cannot_be_so_are_billed_at_the_most_of_the_job",),
    ),
    # weights, snapshots and matches are what they were
    "A3 missing weights are made up": (
        "models/load.py", "check_loaded(folder, info)", "pass",
        ("models/test_load.py::test_A3_weights_are_never_made_up",),
    ),
    "A3 an adapter's missing weights are made up": (
        "models/load.py", 'check_adapted(path, adapted, "default")', "pass",
        ("models/test_load.py::test_A3_an_adapters_weights_are_never_made_up",),
    ),
    "A4 a snapshot's digest is not compared": (
        "models/snapshot.py", "if not snapshot.version.endswith(found):", "if False:",
        ("models/test_load.py::test_A4_a_changed_snapshot_is_not_restored",),
    ),
    "A4 a run's snapshot is used unseen": (
        "run/contents.py", "return snapshots.verify(snapshot)", "return snapshot",
        ("run/test_stored_runs.py::test_A4_a_changed_snapshot_of_a_run_is_not_used",),
    ),
    "A5 records are not held against their seal": (
        "data/seal.py", "if not isinstance(stated, Mapping) or stated.get(name) != found.get(name):", "if False:",
        ("run/test_stored_runs.py::test_A5_matches_that_were_changed_are_not_trained_on_nor_shown",),
    ),
    "A5 stored matches are read unsealed": (
        "data/store.py", "verify(self.folder)", "pass",
        ("run/test_stored_runs.py::test_A5_matches_that_were_changed_are_not_trained_on_nor_shown",),
    ),
    "A5 stored scores are read unsealed": (
        "data/scorer.py", "verify(Path(self.scores).parent)", "pass",
        ("run/test_stored_runs.py::test_A5_scores_that_were_changed_are_refused",),
    ),
    # thoughts and templates
    "A6 the game hears thoughts": (
        "models/renderer.py",
        'return ("", self.text(token_ids)) if parts is None else (bare(parts[0]), bare(parts[1]))',
        'return "", self.text(token_ids)',
        ("models/test_real_templates.py::test_A6_the_game_hears_speech_and_the_ids_stay_whole",),
    ),
    "A6 a thought that is cut is speech": (
        "models/thoughts.py", "if not closed and opened:", "if False:",
        ("models/test_real_templates.py::test_A6_a_thought_that_is_cut_leaves_no_speech",),
    ),
    "A6 thoughts stay in later turns whatever is asked": (
        "models/template.py", "if not self.conduct.keep_thoughts:", "if False:",
        ("models/test_real_templates.py::"
         "test_A6_thoughts_stay_in_the_stream_where_the_template_keeps_them_and_leave_it_by_option",),
    ),
    "A6 template arguments are dropped": (
        "models/template.py", "**self.conduct.template, ", "",
        ("models/test_real_templates.py::test_A6_template_arguments_are_given_and_never_the_renderers_own",),
    ),
    "A6 the use of a template is no part of the snapshot": (
        "models/hub.py", "return model if conduct == Conduct() else conduct.laid(model, folder)", "return model",
        ("models/test_real_templates.py::"
         "test_A6_how_a_template_is_used_is_part_of_the_snapshot_and_of_what_is_trained_from_it",),
    ),
    "A6 what a template does is not said": (
        "run/start.py", 'self.run.progress.note(f"chat template: {Behaviour.of(renderer).text()}")', "pass",
        ("run/test_openings.py::"
         "test_A6_A18_lines_at_the_start_say_what_the_template_does_and_what_the_adapter_changes",),
    ),
    "A7 a demonstration is one stream whatever the template does": (
        "models/demonstrated.py", "if shape is None or not self._grows(roles):", "if shape is None:",
        ("models/test_real_templates.py::test_A7_every_demonstrated_reply_answers_the_prompt_of_play",),
    ),
    "A8 a reply without an end is imitated": (
        "models/demonstrated.py", "if number % 2 and ids[-1] not in renderer.stops:", "if False:",
        ("models/test_real_templates.py::test_A8_a_reply_that_the_template_does_not_end_is_ended_as_the_model_would",),
    ),
    "A9 a system message alone is dropped": (
        "models/template.py", '!= [], self._drops("system") != []', "!= [], False",
        ("models/test_real_templates.py::test_A9_a_system_message_alone_is_folded_where_the_template_drops_it",),
    ),
    "A9 a template that loses messages is taken": (
        "models/template.py", "self._check()", "pass",
        ("models/test_real_templates.py::test_A9_a_template_that_loses_messages_is_refused",),
    ),
    "A9 a prompt may lack a message": (
        "models/template.py", "if prompt and (lost := self._lost(folded, text)) is not None:", "if False:",
        ("models/test_real_templates.py::test_A9_a_prompt_that_lacks_a_message_is_refused",),
    ),
    "A10 special tokens make a fork": (
        "models/renderer.py", "whole = self._whole(stream.token_ids[stream.cuts[-1][1] :])", "whole = stream.reply",
        ("models/test_real_templates.py::test_A10_a_reply_that_comes_back_under_its_special_tokens_is_no_fork",),
    ),
    "A10 forks have no figure": (
        "run/loop.py", "**words.figures(), **forks.figures()", "**words.figures()",
        ("models/test_real_templates.py::test_A10_forks_are_counted_with_their_reasons",),
    ),
    "A10 forks have no line": (
        "run/loop.py", "forked(name, text)", "pass",
        ("models/test_real_templates.py::test_A10_forks_are_counted_with_their_reasons",),
    ),
    # illegal replies and blame
    "A11 a retry does not tell that a reply was illegal": (
        "data/episode.py", "retried | marked | last", "marked | last",
        ("run/test_refused.py::test_A11_every_reader_has_the_same_answer",),
    ),
    "A11 the kit passes a game that forgets its marks": (
        "games/conformance/checks.py", '"retry" in end.marks.get(before, {})', "True",
        ("run/test_refused.py::test_A11_the_kit_refuses_a_game_that_forgets_its_marks",),
    ),
    "A12 blame is one seat": (
        "credit/base.py", "self.seat in self.episode.result.blame", "self.seat in self.episode.result.blame[:1]",
        ("games/test_legal.py::test_A12_a_sloppy_seat_loses_and_its_honest_partners_are_not_void",),
    ),
    "A12 an honest seat is void where another is to blame": (
        "credit/spag.py", 'result.outcome_by_seat.get(log.seat, "void" if result.blame else None)',
        '"void" if result.blame else result.outcome_by_seat.get(log.seat)',
        ("games/test_legal.py::test_A12_a_sloppy_seat_loses_and_its_honest_partners_are_not_void",),
    ),
    # files of others
    "A13 the weights of SPAG's rows are dropped": (
        "data/formats/spag.py", "(0.0, self.weight)", "(0.0, 1.0)",
        ("data/test_conversations.py::test_A13_weights_of_spags_rows_are_kept_in_imitation",),
    ),
    "A13 empty answers are rows": (
        "data/formats/spag.py", "[row for row in every if row.target.strip()]", "every",
        ("data/test_conversations.py::test_A13_an_empty_answer_is_skipped_and_counted_on_both_routes",),
    ),
    "A13 empty utterances are trained on": (
        "data/sources/spag.py", ' and message.content != ""', "",
        ("data/test_conversations.py::test_A13_empty_utterances_of_episodes_are_not_trained_on",),
    ),
    "A13 empty utterances become rows": (
        "data/formats/spag.py", "            if target:", "            if True:",
        ("data/test_conversations.py::test_A13_empty_utterances_of_episodes_are_not_trained_on",),
    ),
    "A13 files of one name are one": (
        "data/formats/conversations.py", " if stems[file.stem] == 1 else file.name", "",
        ("data/test_conversations.py::test_A13_rows_of_two_files_stay_apart",),
    ),
    "A13 matches of two files are joined": (
        "data/sources/conversations.py", 'name.rpartition("/")[0], log', '"", log',
        ("data/test_conversations.py::test_A13_rows_of_two_files_stay_apart",),
    ),
    "A13 the sides of a pair are merged apart": (
        "data/sources/conversations.py", "generated=_joined(log.generated)", "generated=log.generated",
        ("data/test_conversations.py::test_A13_both_sides_of_a_pair_have_the_rows_whole_prompt",),
    ),
    "A13 a pair's instruction is lost": (
        "data/formats/conversations.py", "return alpaca.asked(row)", "return ()",
        ("data/test_conversations.py::test_A13_both_sides_of_a_pair_have_the_rows_whole_prompt",),
    ),
    "A13 empty replies of stored matches are imitated": (
        "data/sample.py", "each.request in replies and bool(each.content.strip())", "each.request in replies",
        ("run/test_from_matches.py::test_A13_empty_replies_of_stored_matches_are_not_imitated",),
    ),
    "A14 a plural is made of capitals": (
        "games/taboo/inflection.py", "_first(word.lower())", "_first(word)",
        ("games/test_taboo_judges.py::test_A14_the_legacy_judge_lower_cases_the_word_before_it_makes_the_plural",),
    ),
    "A15 a fraction is read without its point": (
        "games/deal/grammar.py", r"|\.[0-9]+", "",
        ("games/test_deal_grammar.py::test_A15_a_fraction_is_no_whole_number",),
    ),
    "A16 export writes what credit does not keep": (
        "cli/tasks/exporting.py", '_credited(mine, rounds, policy) if keep == "credit" else _every',
        "_every",
        ("run/test_conversation_runs.py::test_A16_export_writes_what_credit_keeps_and_a_hosted_learner_sends",),
    ),
    "A16 replies of a prompt are imitated": (
        "data/formats/conversations.py", 'meta_of(row, "prompt", "completion"), _replies(prompt)',
        'meta_of(row, "prompt", "completion")',
        ("data/test_conversations.py::test_A16_replies_of_a_prompt_are_context",),
    ),
    "A16 replies of weight 0 in ShareGPT's rows are imitated": (
        "data/formats/conversations.py", ", tuple(weightless(said))", "",
        ("data/test_conversations.py::test_A16_replies_of_a_prompt_are_context",),
    ),
    "A16 an export is read several times over": (
        "data/formats/conversations.py", "len(exported) > 1", "False",
        ("data/test_conversations.py::test_A16_an_exports_folder_is_not_read_several_times_over",),
    ),
    "A16 replies that credit punishes are exported": (
        "credit/verdicts.py", "if request not in self.worse", "",
        (
            "credit/test_advantage.py::test_A16_replies_without_a_positive_reward_are_not_worth_imitating",
            "run/test_from_matches.py::test_A16_an_export_leaves_out_what_credit_trains_away_from",
        ),
    ),
    "A16 bad replies of foreign logs are imitated": (
        "run/build.py", "or (isinstance(parts.data, Imported)", "or (False",
        ("run/test_conversation_runs.py::test_A16_a_credit_that_keeps_bad_replies_is_refused_for_foreign_logs",),
    ),
    "A16 logs of opponents are exported": (
        "cli/tasks/exporting.py", "if player == policy and seat in", "if seat in",
        ("run/test_conversation_runs.py::test_A16_all_logs_are_those_of_the_learner_never_of_an_opponent",),
    ),
    "A17 an instruction of the published prompt is missing": (
        "games/deal/prompts.py", ": an item cannot be split", "",
        ("games/test_deal_rules.py::test_A17_the_published_prompt_tells_what_the_originals_tell",),
    ),
    "A17 a text after an end is read": (
        "games/deal/grammar.py", "_END.split(text, maxsplit=1)[0].strip()", "text.strip()",
        ("games/test_deal_grammar.py::test_A17_what_stands_after_an_end_is_cut",),
    ),
    # figures, ids and limits
    "A18 what an adapter leaves alone is not said": (
        "models/adapter.py", "; the rest stays unchanged ({others})", "",
        ("models/test_load.py::test_A18_what_an_adapter_reaches_is_told",),
    ),
    "A18 what an adapter reaches is not said": (
        "run/start.py", "self.run.progress.note(part.adapter.reach(snapshot))", "pass",
        ("run/test_openings.py::"
         "test_A6_A18_lines_at_the_start_say_what_the_template_does_and_what_the_adapter_changes",),
    ),
    "A19 an ambiguous id takes one of the matches": (
        "run/contents.py", "if len(found) > 1:", "if False:",
        ("run/test_stored_runs.py::"
         "test_A19_ids_as_shown_are_ids_that_work_and_ambiguous_ones_are_refused_with_the_list",),
    ),
    "A19 an id with its iteration does not work": (
        "run/contents.py", "if match in (episode.id, whole):", "if match == episode.id:",
        ("run/test_stored_runs.py::"
         "test_A19_ids_as_shown_are_ids_that_work_and_ambiguous_ones_are_refused_with_the_list",),
    ),
    "A20 a game's limit raises the player's": (
        "games/base.py", "min(own, self.max_tokens)", "self.max_tokens",
        ("play/test_players.py::test_A20_a_reply_has_the_smaller_of_the_games_limit_and_the_players",),
    ),
    # the command line
    "B01 a metric's name is not looked up": (
        "run/build.py", "yield from _unknown_metric(parts)", "yield from ()",
        ("run/test_stored_runs.py::test_B01_metric_names_are_known_before_anything_is_built",),
    ),
    "B02 the prompts of a file are not tried on the model's template": (
        "run/start.py", "openings.check(self.run.game, made)", "pass",
        ("run/test_openings.py::test_B02_every_template_is_tried_on_the_prompts_of_a_file",),
    ),
    "B02 the prompts of a file are not tried on an opponent's template": (
        "run/start.py", 'openings.check(self.run.game, each.snapshot, f"opponents.{name}: ")', "pass",
        ("run/test_openings.py::test_B02_every_template_is_tried_on_the_prompts_of_a_file",),
    ),
    "B03 an assertion of OmegaConf is no fault": (
        "cli/composing.py", "OmegaConfBaseException, YAMLError, AssertionError)", "OmegaConfBaseException, YAMLError)",
        ("cli/test_config.py::test_B03_a_key_below_a_single_value_is_told",),
    ),
    "B03 a missing table of opponents is read": (
        "cli/validation.py", "nodes.items() if isinstance(nodes, Mapping) else ()", "(nodes or {}).items()",
        ("cli/test_config.py::test_B03_a_missing_value_is_told_once",),
    ),
    "B03 NaN passes": (
        "cli/nodes.py", "if not finite(value):", "if False:",
        ("cli/test_config.py::test_B03_B04_B14_strange_words_are_told_in_one_message",),
    ),
    "B03 bounds are not checked": (
        "cli/nodes.py", "(Fault(key, text) for bound in bounds if (text := bound.fault(value)))", "()",
        ("cli/test_config.py::test_B03_B04_B14_strange_words_are_told_in_one_message",),
    ),
    "B04 a group takes anything": (
        "cli/composing.py", "if key in groups and not re.fullmatch(", "if False and not re.fullmatch(",
        ("cli/test_config.py::test_B03_B04_B14_strange_words_are_told_in_one_message",),
    ),
    "B04 Hydra's own stumbling is a traceback": (
        "cli/composing.py",
        "except (ValueError, TypeError, LookupError, OSError, ArithmeticError, RecursionError) as error:",
        "except ZeroDivisionError as error:",
        ("cli/test_config.py::test_B03_B04_B14_strange_words_are_told_in_one_message",),
    ),
    "B04 a node without a target is accepted": (
        "cli/validation.py", "faults += _unchosen(plain)", "pass",
        ("cli/test_config.py::test_B03_B04_B14_strange_words_are_told_in_one_message",),
    ),
    "B04 a run's name may be a path": (
        "cli/validation.py", r'not re.fullmatch(FOLDER_NAME, name)', "False",
        ("cli/test_config.py::test_B03_B04_B14_strange_words_are_told_in_one_message",),
    ),
    "B04 an empty resume is accepted": (
        "cli/validation.py", "if not config.resume:", "if False:",
        ("cli/test_config.py::test_B03_B04_B14_strange_words_are_told_in_one_message",),
    ),
    "B04 a run's directory may be a file": (
        "cli/validation.py", "if out is not None and out.exists() and not out.is_dir():", "if False:",
        ("cli/test_config.py::test_B04_a_runs_directory_that_is_a_file_is_told",),
    ),
    # a run's files
    "B05 another run's torn config ends resume=auto": (
        "run/directory.py", "except ConfigError:\n        return None",
        "except ZeroDivisionError:\n        return None",
        ("cli/test_config.py::test_B05_run_directories_are_new_or_the_newest_unfinished_that_can_go_on",),
    ),
    "B05 a run that failed at its model is gone on with": (
        "run/directory.py", " and any(path.is_file() for path in files)", "",
        ("cli/test_config.py::test_B05_run_directories_are_new_or_the_newest_unfinished_that_can_go_on",),
    ),
    "B05 any JSON is a stage's manifest": (
        "data/seal.py", "if not isinstance(found, dict) or not _known(found):",
        "if False:",
        ("run/test_stored_runs.py::test_B05_a_stages_manifest_that_cannot_be_read_is_named",),
    ),
    "B05 lines that are no rows stay in metrics.jsonl": (
        "report/trackers.py", "if _before(line, iteration)]", "if True]",
        ("run/test_stored_runs.py::test_B05_the_other_files_of_a_run_are_named_or_written_anew",),
    ),
    "B05 a config that cannot be read is a traceback": (
        "run/contents.py", "except (YAMLError, OmegaConfBaseException, AssertionError, *REFUSED):",
        "except ZeroDivisionError:",
        ("run/test_stored_runs.py::test_B05_a_config_that_cannot_be_read_is_named",),
    ),
    "B05 a kill before config.yaml leaves a directory that cannot start": (
        "run/directory.py", '"parley.log", "manifest.json")', '"parley.log")',
        ("run/test_stored_runs.py::test_B05_B13_a_kill_between_the_first_two_files_leaves_a_directory_that_starts",),
    ),
    "B05 a replay that differs is a traceback": (
        "run/errors.py", ", ReplayError)", ")",
        ("run/test_stored_runs.py::test_B05_a_replay_that_differs_is_one_line_in_show_and_export",),
    ),
    "B05 any amount stands in a ledger": (
        "system/spending.py", "or not 0 <= amount < inf", "",
        ("system/test_spending.py::test_B05_a_foreign_line_of_a_ledger_is_named",),
    ),
    "B06 names are read as markup": (
        "report/progress.py", "Console(markup=False, **options)", "Console(**options)",
        ("run/test_stored_runs.py::test_B06_markup_in_names_and_paths_is_shown_as_it_is",),
    ),
    "B07 a full disk is a traceback": (
        "run/directory.py", "if not disk_full(error):", "if True:",
        ("run/test_stored_runs.py::test_B07_a_full_disk_is_one_line_whoever_says_so",),
    ),
    "B07 a short write forgets a request": (
        "system/spending.py", "while written < len(text):", "if written < len(text):",
        ("system/test_spending.py::test_B07_a_full_disk_forgets_no_request_that_was_sent",),
    ),
    "B07 half a match stays in its file": (
        "data/store.py", "self._file.truncate(self._size)", "pass",
        ("data/test_store.py::test_B07_a_full_disk_is_one_clear_error_and_the_file_stays_whole",),
    ),
    # models and templates
    "B08 errors of the libraries are not told": (
        "models/folders.py", "except (InputError, FileNotFoundError, MemoryError):", "except Exception:",
        ("models/test_load.py::test_B08_model_folders_that_are_damaged_are_named_with_the_reason",),
    ),
    "B08 weights may be NaN": (
        "models/load.py", "check_finite(folder, model.named_parameters())", "pass",
        ("models/test_load.py::test_B08_model_folders_that_are_damaged_are_named_with_the_reason",),
    ),
    "B08 a config may describe any size": (
        "models/folders.py", "if (wanted := model.num_parameters()) > ROOM * numbers:",
        "if (wanted := model.num_parameters()) < 0:",
        ("models/test_load.py::"
         "test_B08_a_config_that_describes_far_more_than_the_files_hold_is_told_before_it_is_built",),
    ),
    "B08 a negative end of sequence is a token": (
        "models/renderer.py", "if not all(type(each) is int and 0 <= each < 2**31 for each in ids):", "if False:",
        ("models/test_load.py::test_B08_an_end_that_is_no_token_is_refused",),
    ),
    "B08 words may lie above the embedding": (
        "models/load.py", "check_words(path, tokenizer)", "pass",
        ("models/test_load.py::test_B08_model_folders_that_are_damaged_are_named_with_the_reason",),
    ),
    "B08 token ids may lie above the embedding": (
        "backends/pool.py", "if max(prompt.token_ids) >= len(self._stop_V):", "if False:",
        ("models/test_load.py::test_B08_token_ids_above_the_embedding_are_refused",),
    ),
    "B08 layers that cannot be decoded are found in play": (
        "backends/hf.py", "check_decodable(architecture(folder))", "architecture(folder)",
        ("models/test_load.py::test_B08_layers_that_cannot_be_decoded_are_told_from_the_config_alone",),
    ),
    "B08 targets that no layer has are left to peft": (
        "models/adapter.py", "self._check(model, base)", "pass",
        ("models/test_adapter.py::test_B08_targets_that_the_base_does_not_have_are_told",),
    ),
    "B09 a template's trial does not count": (
        "models/trial.py", "if done.returncode:", "if False:",
        ("models/test_renderer.py::test_B09_a_template_that_hangs_grows_or_draws_is_refused",),
    ),
    "B09 a template may draw at random": (
        "models/trial.py", "in CHANCE.items():", "in ():",
        ("models/test_renderer.py::test_B09_a_template_that_hangs_grows_or_draws_is_refused",),
    ),
    "B09 a template may change between two renderings": (
        "models/trial.py", "if first != second:", "if False:",
        ("models/test_renderer.py::test_B09_templates_that_refuse_or_mark_what_is_generated_pass_their_trial",),
    ),
    "B09 a template is used untried": (
        "models/template.py", "tried(source, known)", "pass",
        ("models/test_renderer.py::test_B09_a_template_is_tried_before_it_is_used",),
    ),
    "B09 a template that needs tools gets advice about turns": (
        "models/template.py", "except InputError as error:\n            raise InputError(\n",
        "except ZeroDivisionError as error:\n            raise InputError(\n",
        ("models/test_renderer.py::test_B09_a_template_that_needs_tools_gets_no_advice_about_turns",),
    ),
    "B10 an index may name any file": (
        "models/load.py", "check_index(folder)", "pass",
        ("models/test_load.py::test_B10_an_index_names_safetensors_of_its_own_folder",),
    ),
    "B10 a folder names the code of its attention": (
        "models/folders.py", "config._attn_implementation = None", "pass",
        ("models/test_load.py::test_B10_the_attention_is_ours_whatever_the_config_names",),
    ),
    # servers
    "B11 an answer that cannot be read ends the run": (
        "backends/answer.py", "choices[0] if isinstance(choices, list) and choices else None\n    message",
        "choices[0]\n    message",
        ("backends/test_answer.py::test_B11_servers_answers_that_cannot_be_read_are_asked_for_again_then_lost",),
    ),
    "B11 any log-prob is stored": (
        "backends/answer.py", "math.isfinite(value) and value <= ABOVE_ZERO", "True",
        ("backends/test_answer.py::test_B11_servers_token_ids_and_logprobs_that_cannot_be_so_are_unreadable",),
    ),
    "B11 log-probs need not be one for each id": (
        "backends/answer.py", "logprobs=_all(_logprob, \"log-probs\", logprobs, len(ids))",
        "logprobs=_all(_logprob, \"log-probs\", logprobs)",
        ("backends/test_answer.py::test_B11_servers_token_ids_and_logprobs_that_cannot_be_so_are_unreadable",),
    ),
    "B11 redirects are followed": (
        "backends/openai.py", "follow_redirects=False, headers=", "follow_redirects=True, headers=",
        ("backends/test_answer.py::test_B11_servers_redirects_are_not_followed",),
    ),
    "B11 an answer may have any length": (
        "backends/wire.py", "if self._size > MOST_BYTES:", "if False:",
        ("backends/test_answer.py::test_B11_servers_answers_are_bounded",),
    ),
    "B11 an answer may be compressed": (
        "backends/wire.py", '(encoding := response.headers.get("content-encoding", "identity")) != "identity"',
        '(encoding := "identity") != "identity"',
        ("backends/test_answer.py::test_B11_servers_answers_are_bounded",),
    ),
    # data files, signals, secrets, rights
    "B12 deep JSON is a traceback": (
        "system/files.py", "TypeError, AttributeError, RecursionError)", "TypeError, AttributeError)",
        ("system/test_files.py::test_B12_no_line_of_a_foreign_file_escapes_the_error",),
    ),
    "B12 a byte-order mark is a letter": (
        "system/files.py", '"utf-8-sig" if first else "utf-8"', '"utf-8"',
        ("data/test_fuzz.py::test_B12_a_sound_file_is_read_with_and_without_a_mark",),
    ),
    "B12 UTF-16 is not named": (
        "system/files.py", "if first and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):", "if False:",
        ("data/test_conversations.py::test_B12_byte_order_marks_are_read_and_other_encodings_are_named",),
    ),
    "B12 a NUL byte is text": (
        "system/files.py", r'if b"\0" in data:', "if False:",
        ("data/test_conversations.py::test_B12_a_bad_row_is_named_with_file_line_and_reason",),
    ),
    "B12 a long value is told whole": (
        "system/files.py", "text if len(text) <= LONGEST else", "text if True else",
        ("data/test_spag.py::test_B12_a_wrong_row_is_named",),
    ),
    "B12 what is no regular file is opened": (
        "system/files.py", "if stat.S_ISREG(path.stat().st_mode):", "if True:",
        ("system/test_files.py::test_B12_a_folder_is_no_file",),
    ),
    "B13 nobody listens in the first seconds": (
        "__main__.py", "with preempt.listening():", "if True:",
        ("system/test_preempt.py::test_B13_a_signal_in_the_first_seconds_ends_with_75",),
    ),
    "B13 a killed launcher's files stay": (
        "run/directory.py", "rmtree(left, ignore_errors=True)", "pass",
        ("run/test_stored_runs.py::test_B05_B13_a_kill_between_the_first_two_files_leaves_a_directory_that_starts",),
    ),
    "B11 a service's answers are not bounded": (
        "backends/openai.py", 'event_hooks={"response": [bound_sync]}', "",
        ("learners/test_hosted.py::test_B11_a_services_answers_are_bounded",),
    ),
    "B14 a key stands in the config": (
        "cli/validation.py", "yield Fault(key, SECRET)", "pass",
        ("cli/test_config.py::test_B03_B04_B14_strange_words_are_told_in_one_message",),
    ),
    "B14 a login stands in the config": (
        "cli/validation.py", "yield Fault(key, LOGIN)", "pass",
        ("cli/test_config.py::test_B14_secrets_that_come_from_the_environment_may_be_named",),
    ),
    "B14 a fault of the config shows what the environment holds": (
        "cli/validation.py", "hidden(line, written)", "line",
        ("cli/test_config.py::test_B14_secrets_that_come_from_the_environment_may_be_named",),
    ),
    "B14 an error shows what the environment holds": (
        "cli/main.py", "hidden(in_words(error), ' '.join(sys.argv))", "in_words(error)",
        ("cli/test_config.py::test_B14_secrets_of_the_environment_are_in_no_message",),
    ),
    "B14 a key that a server repeats is recorded": (
        "backends/openai.py", 'return text if self.key == NO_KEY else text.replace(self.key, "***")', "return text",
        ("backends/test_answer.py::"
         "test_B14_a_server_that_repeats_the_key_or_half_a_letter_gets_neither_into_the_records",),
    ),
    "B15 others cannot read a snapshot's templates": (
        "models/snapshot.py", "path.chmod(0o755 if path.is_dir() else 0o644)", "path.chmod(0o644)",
        ("models/test_load.py::"
         "test_B15_a_folder_with_several_templates_can_be_read_and_its_digest_sees_them",),
    ),
    "B15 a digest does not see further templates": (
        "models/snapshot.py", ' "additional_chat_templates/*.jinja",', "",
        ("models/test_load.py::"
         "test_B15_a_folder_with_several_templates_can_be_read_and_its_digest_sees_them",),
    ),
    "B16 a capped match is a mismatch": (
        "data/formats/lm_selfplay.py", '"unfinished" if None in self.allocations else "mismatch"', '"mismatch"',
        ("data/test_formats.py::test_B16_lm_selfplay_logs_become_records",),
    ),
    "B16 a task writes below another experiment": (
        "run/directory.py", "if run is not None and task is not None:", "if False:",
        ("cli/test_finding.py::test_B16_a_task_on_a_run_writes_below_it",),
    ),
    "B16 dialogues of people have no limit": (
        "data/sources/lewis.py", "islice(read(path), self.limit)", "read(path)",
        ("run/test_deal_human.py::test_B16_fast_runs_to_its_end_without_scripts_that_demonstrate",),
    ),
}  # fmt: skip
