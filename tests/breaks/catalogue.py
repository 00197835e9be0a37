"""The breaks: one wrong line each, and the test that has to notice."""

from __future__ import annotations

from dataclasses import dataclass

ROLLOUT = "tests/integration/test_rollout_and_learner.py"
DEMO_PATH = "[a frozen tower and projector]"
KUBERNETES = "tests/unit/test_kubernetes.py"


@dataclass(frozen=True)
class Break:
    """A text that stands once in a file, and what it is replaced by."""

    name: str
    file: str
    text: str
    replacement: str
    test: str
    """Node id of the cheapest test that fails."""


BREAKS = (
    Break(
        "the weights do not reach the engine",
        "actors/weights/in_vllm.py",
        'self.model.load_weights(unpack(update_info["slots"], bucket))',
        'list(unpack(update_info["slots"], bucket))',
        f"{ROLLOUT}::test_after_an_update_a_repeated_prompt_is_sampled_from_the_learners_new_policy{DEMO_PATH}",
    ),
    Break(
        "a prompt that is repeated after an update uses old cached keys",
        "actors/engine.py",
        'if self._on_update != "keep_kv" and not engine.reset_prefix_cache(reset_running_requests=True):',
        "if False:",
        f"{ROLLOUT}::test_after_an_update_a_repeated_prompt_is_sampled_from_the_learners_new_policy{DEMO_PATH}",
    ),
    Break(
        "the rollout actor keeps its first projector",
        "actors/embedder.py",
        "targets[name].copy_(tensor)",
        "_ = name.startswith(TOWER) and targets[name].copy_(tensor)",
        f"{ROLLOUT}::test_the_projector_alone_is_trained_and_engine_and_learner_stay_one_policy"
        "[a frozen tower and a trained projector]",
    ),
    Break(
        "the rollout actor keeps its first tower",
        "actors/embedder.py",
        "targets[name].copy_(tensor)",
        "_ = name.startswith(PROJECTOR) and targets[name].copy_(tensor)",
        f"{ROLLOUT}::test_after_three_updates_the_tower_is_another_and_engine_and_learner_stay_one_policy"
        "[a trained tower]",
    ),
    Break(
        "groups start though the engines have no place for them",
        "cluster/controller.py",
        "self._preparing += 1",
        "pass",
        "tests/unit/test_controller.py::test_no_more_groups_are_on_their_way_than_the_engines_have_places",
    ),
    Break(
        "simulated threads that share cores do not slow each other",
        "cluster/simulated_clock.py",
        "max(self.threads / self._cores, 1.0)",
        "1.0",
        "tests/unit/test_simulation.py::test_threads_that_share_cores_slow_each_other",
    ),
    Break(
        "a simulated step takes its groups before all that finish at its moment are there",
        "cluster/simulation.py",
        "self.clock.after(0.0, self._take)",
        "self._take()",
        "tests/unit/test_simulated_control.py::"
        "test_the_control_loop_takes_its_steps_when_the_simulation_does[1-2-keep_kv]",
    ),
    Break(
        "a simulated update costs what runs nothing",
        "cluster/simulated_engine.py",
        'if self._on_update == "recompute":',
        "if False:",
        "tests/unit/test_simulation.py::test_new_weights_find_what_runs_as_they_are_told",
    ),
    Break(
        "simulated ranks pay nothing for their traffic",
        "cluster/timings.py",
        "max(rank_tokens * self.token_seconds, exchange)",
        "rank_tokens * self.token_seconds",
        "tests/unit/test_simulation.py::test_ranks_share_the_tokens_and_pay_for_their_traffic",
    ),
    Break(
        "steps that were interrupted count in the timings of a run",
        "cluster/calibration.py",
        "all(step % every for step in around for every in interruptions if every)",
        "True",
        "tests/unit/test_timings.py::test_two_runs_of_different_lengths_tell_all_that_their_steps_were_made_of",
    ),
    Break(
        "a split is recommended that its devices cannot hold",
        "cluster/recommendation.py",
        "if fits(told) else None",
        "if told else None",
        "tests/unit/test_splits.py::test_a_split_that_its_devices_cannot_hold_is_left_out",
    ),
    Break(
        "a request does not wait for the update that came before it",
        "actors/engine.py",
        'case _Request() if self._load is not None and self._on_update == "drain":',
        "case _Request() if False:",
        f"{ROLLOUT}::test_a_request_that_waits_for_an_update_is_embedded_and_sampled_after_it[a trained tower]",
    ),
    Break(
        "a tensor is left out of the buckets",
        "actors/weights/buckets.py",
        "_view(scratch, slot).copy_(tensor.detach())",
        '_ = slot.name == "large" or _view(scratch, slot).copy_(tensor.detach())',
        "tests/unit/test_buckets.py::test_what_is_unpacked_is_bitwise_what_was_packed",
    ),
    Break(
        "every engine has the first rank of the broadcast's group",
        "actors/weights/nccl.py",
        "offsets = range(1, 1 + self._workers * len(self.engines), self._workers)",
        "offsets = [1] * len(self.engines)",
        "tests/integration/test_nccl.py::test_every_engine_has_ranks_of_its_own_after_the_learners",
    ),
    Break(
        "an engine whose log-probs are no numbers passes for the learner's policy",
        "cluster/verification.py",
        "if not difference <= self._most",
        "if difference > self._most",
        "tests/unit/test_controller.py::test_engines_that_are_another_policy_at_two_checks_in_a_row_end_the_run",
    ),
    Break(
        "a new node gets a further engine beside the one that waits for a place",
        "cluster/growth.py",
        "if self._further is not None and not view.unplaced:",
        "if self._further is not None:",
        "tests/unit/test_growth.py::test_a_new_node_is_left_to_an_engine_without_a_place",
    ),
    Break(
        "the place of a lost node is left to Ray, which looks for another without a pause",
        "cluster/workers.py",
        "        await place.renew()\n",
        "",
        "tests/faults/test_nodes.py::test_a_new_node_is_put_to_work_and_a_lost_one_loses_no_group",
    ),
    Break(
        "a clip that ends before its header says passes the check",
        "data/audio.py",
        "if read + TOLERANCE_SECONDS < min(seconds, max_seconds) or not ends:",
        "if not ends:",
        "tests/unit/test_audio.py::test_a_check_finds_a_clip_that_is_cut_short[in a file-WAV-PCM_16-truncated]",
    ),
    Break(
        "a clip passes the check under the hash of another",
        "data/problems.py",
        "(isinstance(claimed, str) and claimed.lower() == digest)",
        "isinstance(claimed, str)",
        "tests/unit/test_check.py::test_rows_of_parquet_are_told_by_row_and_their_hash_is_checked",
    ),
    Break(
        "choices that are shuffled keep one order for ever",
        "cluster/asking.py",
        'hash_seed(config.run.seed, "choices", epoch, example.id)',
        'hash_seed(config.run.seed, "choices", example.id)',
        "tests/unit/test_asking.py::"
        "test_every_epoch_and_every_run_has_an_order_of_its_own_and_a_group_asked_again_the_same",
    ),
    Break(
        "an evaluation shuffles the choices too",
        "cluster/asking.py",
        "if epoch == EVALUATION or not config.data.shuffle_choices:",
        "if not config.data.shuffle_choices:",
        "tests/unit/test_asking.py::"
        "test_evaluations_and_runs_that_do_not_shuffle_ask_in_the_order_of_the_file[True--1]",
    ),
    Break(
        "the prompt lacks a space that the real model has seen",
        "data/prompts.py",
        "Audio 1: <|audio_bos|>",
        "Audio 1:<|audio_bos|>",
        "tests/unit/test_golden_prompts.py::test_a_prompt_has_the_token_ids_of_the_real_model[1-built in]",
    ),
    Break(
        "a bucket is sent before it is packed",
        "cluster/transports.py",
        "                await there\n",
        "",
        "tests/unit/test_transports.py::test_an_engine_has_a_bucket_while_the_next_is_packed_and_no_sooner",
    ),
    Break(
        "damaged tower output is taken for a clip",
        "learner/feature_store.py",
        "page_checksum_verification=True",
        "page_checksum_verification=False",
        "tests/unit/test_feature_store.py::test_no_changed_byte_is_taken_for_a_clip",
    ),
    Break(
        "two prompts of an epoch draw one seed",
        "cluster/asking.py",
        "hash_seed(self.config.run.seed, epoch, example.id, issue)",
        "hash_seed(self.config.run.seed, epoch, issue)",
        f"{ROLLOUT}::test_no_two_completions_of_a_step_share_a_random_stream{DEMO_PATH}",
    ),
    Break(
        "consecutive prompts draw consecutive seeds",
        "cluster/asking.py",
        "hash_seed(self.config.run.seed, epoch, example.id, issue)",
        "1000 * epoch + sum(example.id.encode())",
        f"{ROLLOUT}::test_no_two_completions_of_a_step_share_a_random_stream{DEMO_PATH}",
    ),
    Break(
        "the learner pairs the clip of one prompt with another's answers",
        "learner/micro_batches.py",
        "[features[clip_of(index)] for index in indices]",
        "[features[clip_of(index)] for index in reversed(indices)]",
        f"{ROLLOUT}::test_every_token_has_the_same_log_prob_in_engine_and_learner_and_another_clip_would_show{DEMO_PATH}",
    ),
    Break(
        "the engine takes equally long clips for one",
        "actors/embedder.py",
        'name = f"{clip.sha256}-{self.version}"',
        'name = f"{clip.seconds}-{self.version}"',
        f"{ROLLOUT}::test_every_token_has_the_same_log_prob_in_engine_and_learner_and_another_clip_would_show{DEMO_PATH}",
    ),
    Break(
        "the advantage is divided by the biased deviation",
        "learner/advantage.py",
        "for value in kept) / (len(kept) - 1))\n    return _scaled(apart",
        "for value in kept) / len(kept))\n    return _scaled(apart",
        "tests/unit/test_advantage.py::test_grpos_advantage_is_the_papers_formula_in_float64",
    ),
    Break(
        "the KL is estimated without its control variate",
        "learner/losses.py",
        "return torch.exp(difference) - difference - 1",
        "return -difference",
        "tests/unit/test_losses.py::test_grpo_loss_and_gradient_match_a_float64_reference",
    ),
    Break(
        "the loss rewards bad completions",
        "learner/losses.py",
        "loss = -torch.minimum(",
        "loss = torch.minimum(",
        "tests/unit/test_losses.py::test_grpo_loss_and_gradient_match_a_float64_reference",
    ),
    Break(
        "long completions weigh more in the loss",
        "learner/losses.py",
        '"sequence": tokens * completions,',
        '"sequence": completions,',
        "tests/integration/test_learner_ranks.py::test_loss_and_gradient_are_the_papers_written_by_hand",
    ),
    Break(
        "stale tokens count in full",
        "learner/off_policy.py",
        'return (loss if algorithm.correction_level == "none" else loss * found.weights), cut',
        "return loss, cut",
        "tests/integration/test_learner_ranks.py::"
        "test_an_asynchronous_step_makes_the_gradient_and_the_weights_that_are_written_by_hand",
    ),
    Break(
        "a masked completion is trained through its tokens",
        "configs/schema.py",
        'return "sequence" if self.surrogate in ONE_RATIO else "token"',
        'return "token"',
        "tests/unit/test_off_policy.py::test_a_masked_completion_has_no_gradient_whatever_the_surrogate[completion]",
    ),
    Break(
        "a step that teaches nothing moves the weights by the moments of others",
        "learner/update.py",
        "steps = len(useful) > 0",
        "steps = True",
        "tests/integration/test_learner_ranks.py::"
        "test_a_step_without_any_variance_moves_nothing_by_the_moments_of_those_before_it[one rank]",
    ),
    Break(
        "dynamic sampling looks at what long completions lose",
        "actors/reward.py",
        "unshaped = [total for total in scored.group.total if total is not None]",
        "unshaped = kept",
        "tests/unit/test_reward_scoring.py::"
        "test_a_groups_spread_is_that_of_its_rewards_before_long_completions_lose_some[rewards0-0.0]",
    ),
    Break(
        "a further update weighs stale tokens anew",
        "learner/update.py",
        "found = first.importance",
        "found = importance(logprobs, tokens.sampled_logprobs, tokens.owners, algorithm)",
        "tests/integration/test_learner_ranks.py::test_a_second_update_is_the_clipped_one_that_is_written_by_hand",
    ),
    Break(
        "younger groups pass whatever they leave behind",
        "cluster/admission.py",
        "if due - finished > self.prompts_per_step * (limit - self.version):",
        "if False:",
        "tests/unit/test_admission.py::test_every_interleaving_keeps_the_bound_and_ends",
    ),
    Break(
        "engines that lag get groups as if they did not",
        "cluster/admission.py",
        "        if first < self.version:\n            return 0",
        "        first = max(first, self.version)",
        "tests/unit/test_admission.py::test_every_interleaving_keeps_the_bound_and_ends",
    ),
    Break(
        "running completions keep old keys where they are to be computed again",
        "actors/engine.py",
        "engine.reset_prefix_cache(reset_running_requests=True)",
        "(engine.reset_prefix_cache() or True)",
        "tests/integration/test_updates_in_flight.py::test_running_completions_go_on_under_the_new_version[recompute]",
    ),
    Break(
        "a new request takes the keys of an older version where running ones keep them",
        "actors/engine.py",
        '**({"cache_salt": str(self.version)} if self._on_update == "keep_kv" else {}),',
        "",
        "tests/integration/test_updates_in_flight.py::"
        "test_after_an_update_in_flight_a_repeated_prompt_meets_no_old_key[keep_kv]",
    ),
    Break(
        "an engine that takes another's place keeps the first weights",
        "cluster/rollout_pool.py",
        "            version = self._first_version\n",
        "            version = self._newest.version if self._newest else self._first_version\n",
        "tests/unit/test_rollout_pool.py::test_another_engine_joins_with_the_newest_weights",
    ),
    Break(
        "a reward function out of time always loses its process",
        "rewards/process.py",
        "if not answer.done() and not self.lost:",
        "if False:",
        "tests/unit/test_reward_process.py::test_python_code_out_of_time_is_left_and_its_process_goes_on[sleep]",
    ),
    Break(
        "a reward's process is taken to live while anybody holds its socket",
        "rewards/process.py",
        "self._tasks = [listening, asyncio.create_task(self._watch(listening))]",
        "self._tasks = [listening]",
        "tests/unit/test_reward_process.py::"
        "test_a_process_that_ends_is_missed_though_another_holds_its_socket[hand on and exit]",
    ),
    Break(
        "groups beside one that is late are lost with it",
        "rewards/process.py",
        "Outcome.failed(fault, waiting.completions, why) if blamed else None",
        "Outcome.failed(fault, waiting.completions, why)",
        "tests/unit/test_reward_process.py::"
        "test_a_coroutine_that_blocks_the_loop_is_late_alone_and_the_others_are_asked_again",
    ),
    Break(
        "what a reward function has started outlives its process",
        "rewards/worker.py",
        "os.killpg(this, signal.SIGKILL)",
        "os._exit(0)",
        "tests/unit/test_reward_process.py::test_what_a_function_has_started_ends_with_its_process[exits]",
    ),
    Break(
        "a group's time runs while it waits for the judge's requests",
        "rewards/terms.py",
        "return max(1, min(self.concurrency, requests // max(completions, 1)))",
        "return self.concurrency + 0 * requests",
        "tests/unit/test_judge.py::"
        "test_groups_of_the_judge_are_given_as_there_are_requests_for_and_the_clock_of_others_waits",
    ),
    Break(
        "a completion speaks to the judge in the markup of its chat",
        "rewards/judge.py",
        "return template.format(**{name: as_text(value) for name, value in values.items()})",
        "return template.format(**values)",
        "tests/unit/test_judge.py::test_nothing_that_is_quoted_ends_a_turn_or_a_fence_or_scores[thoughts-turns]",
    ),
    Break(
        "what stands before the break of a list is trained as if it were all",
        "data/formats.py",
        'if isinstance(row, BadRow) and row.reason == "broken_list":',
        "if False:",
        "tests/unit/test_formats.py::test_a_list_that_breaks_is_refused_with_its_place_and_not_read_in_part",
    ),
    Break(
        "an MP3 is read as far as its first frame lets guess",
        "data/audio.py",
        "if mp3.lacks_count(file):",
        "if False:",
        "tests/unit/test_audio.py::"
        "test_a_whole_mp3_is_read_and_found_whole_whether_or_not_it_counts_its_frames"
        "[noise first-False--in a file]",
    ),
    Break(
        "the limit of a reward is taken for math-verify's",
        "rewards/messages.py",
        "LATE = signal.SIGUSR1",
        "LATE = signal.SIGALRM",
        "tests/integration/test_reward_limits.py::"
        "test_the_limit_holds_before_and_after_the_alarm_of_math_verify[before]",
    ),
    Break(
        "a completion that one reward drops is trained on the others",
        "rewards/score.py",
        "return sum(known) if len(known) == len(terms) else None",
        "return sum(known)",
        "tests/unit/test_reward_scoring.py::test_a_completion_without_a_value_has_no_total_and_the_first_reason_counts",
    ),
    Break(
        "a reply of the judge without a score counts as the lowest",
        "rewards/judge.py",
        'return Dropped("unparseable", repr(reply.text[:REPLY_CHARACTERS])) if score is None else score',
        "return 0.0 if score is None else score",
        "tests/unit/test_judge.py::test_a_reply_without_a_score_drops_the_completion_and_is_no_zero[I cannot say.]",
    ),
    Break(
        "the ledger loses a group that is dropped",
        "cluster/ledger.py",
        "self.dropped[reason] += 1",
        "self.dropped[reason] += 0",
        "tests/unit/test_ledger.py::test_the_balance_holds_after_any_sequence_of_calls",
    ),
    Break(
        "the ledger trains a group twice",
        "cluster/ledger.py",
        "            del self._issues[group_id]\n            self.trained += 1",
        "            self.trained += 1",
        "tests/unit/test_ledger.py::test_a_group_is_never_trained_twice",
    ),
    Break(
        "near-duplicates of a held-out recording go to training",
        "data/demo/split.py",
        "return [side[cluster] for cluster in clusters]",
        "return [random.Random(index).choice(list(SHARES)) for index in range(len(clusters))]",
        "tests/unit/test_demo_duplicates.py::"
        "test_every_label_with_enough_recordings_is_on_every_side_and_clusters_stay_whole",
    ),
    Break(
        "a recording on two sides of the split is not noticed",
        "data/demo/split.py",
        "if sides[pair.first] != sides[pair.second]:",
        "if False:",
        "tests/unit/test_demo_duplicates.py::test_a_near_duplicate_on_two_sides_is_caught_with_both_names",
    ),
    Break(
        "a checkpoint is saved under the names of transformers 5",
        "learner/hf.py",
        '"model.audio_tower.": TOWER,',
        '"model.audio_tower.": "model.audio_tower.",',
        "tests/integration/test_checkpoint_naming.py::test_a_sharded_export_is_one_model_in_vllm_and_transformers",
    ),
    Break(
        "what an export wrote is not compared with what was meant",
        "learner/export.py",
        "    if differing:\n",
        "    if False:\n",
        "tests/unit/test_export.py::test_a_bit_that_changes_on_its_way_to_the_disk_is_noticed",
    ),
    Break(
        "an index forgets which tensors are in a shard",
        "learner/hf_files.py",
        "weight_map |= dict.fromkeys(names, shard)",
        "weight_map = dict.fromkeys(names, shard)",
        "tests/unit/test_export.py::test_an_index_names_every_tensors_file_and_the_size_of_all",
    ),
    Break(
        "a forecast forgets the reference policy",
        "learner/memory.py",
        "if config.algorithm.beta and config.model.lora is None else []",
        "if False else []",
        "tests/unit/test_forecast.py::test_the_papers_preset_fits_the_gpus_that_it_names_and_says_what_it_takes",
    ),
    Break(
        "a forecast shards nothing",
        "learner/memory.py",
        '    return figure(what, f"{expression} / ranks", **terms, ranks=ranks)\n',
        "    return figure(what, expression, **terms)\n",
        "tests/unit/test_memory.py::test_every_stage_shards_what_deepspeed_shards[4]",
    ),
    Break(
        "the merge forgets the scaling",
        "learner/weights.py",
        "self.adapted.get_delta_weight(ADAPTER).float()",
        "self.adapted.get_delta_weight(ADAPTER).float() / self.adapted.scaling[ADAPTER]",
        "tests/unit/test_lora.py::test_merged_weights_are_the_model_with_its_adapters[language]",
    ),
    Break(
        "an engine gets a part of a layer",
        "learner/weights.py",
        "return [weight for weight in weights if engine_layer(weight.name) in layers]",
        "return [weight for weight in weights if weight.trained]",
        "tests/unit/test_lora.py::test_an_engine_gets_every_tensor_of_a_layer_that_changed_and_no_other",
    ),
    Break(
        "the reference keeps its adapters",
        "learner/lora.py",
        "        layer.enable_adapters(False)",
        "        layer.enable_adapters(True)",
        "tests/unit/test_lora.py::test_with_its_adapters_off_the_model_is_the_base_and_is_trained_as_before_after_that",
    ),
    Break(
        "groups without variance are not skipped",
        "learner/update.py",
        "skip = not self._kl_in_loss and not algorithm.entropy_coefficient",
        "skip = False",
        "tests/integration/test_learner_ranks.py::"
        "test_a_group_without_variance_is_left_out_where_only_the_advantage_counts",
    ),
    Break(
        "the gold answer stands first",
        "data/demo/questions.py",
        "position = (first_position + place) % CHOICES",
        "position = 0",
        "tests/unit/test_demo_questions.py::test_the_gold_position_is_uniform_overall_and_independent_of_the_answer",
    ),
    Break(
        "the gold answer's position follows the answer",
        "data/demo/questions.py",
        "position = (first_position + place) % CHOICES",
        "position = sum(answer.encode()) % CHOICES",
        "tests/unit/test_demo_questions.py::test_the_gold_position_is_uniform_overall_and_independent_of_the_answer",
    ),
    Break(
        "pass@k takes the samples as drawn with replacement",
        "cluster/at_k.py",
        "return 1 - math.comb(samples - correct, k) / math.comb(samples, k)",
        "return 1 - (1 - correct / samples) ** k",
        "tests/unit/test_at_k.py::test_pass_at_k_is_the_share_of_all_sets_that_hold_a_right_completion",
    ),
    Break(
        "the answer wins every tied vote",
        "cluster/at_k.py",
        "won += Fraction(math.comb(right, given) * sets, ties + 1)",
        "won += Fraction(math.comb(right, given) * sets)",
        "tests/unit/test_at_k.py::test_majority_at_k_is_the_share_of_all_sets_that_vote_for_the_answer",
    ),
    Break(
        "a shuffled clip may be another question's about the same recording",
        "cluster/controls.py",
        "given[number] = row[(place + most) % len(row)]",
        "given[number] = row[(place + 1) % len(row)]",
        "tests/unit/test_controls.py::test_every_clip_goes_once_to_a_question_about_another_recording",
    ),
    Break(
        "MMAU's script is given what was thought too",
        "cluster/prediction_file.py",
        "dict.fromkeys(KEYS, answer.prediction)",
        "dict.fromkeys(KEYS, answer.greedy)",
        "tests/unit/test_prediction_file.py::test_mmaus_script_and_our_scoring_come_to_the_accuracy_of_the_evaluation",
    ),
    Break(
        "a study takes a run of another length for its own",
        "cluster/study.py",
        'key == "run.max_steps" or not resumable(key)',
        "not resumable(key)",
        "tests/unit/test_study_command.py::"
        "test_a_run_of_another_length_is_refused_and_trained_again_where_that_is_asked_for",
    ),
    Break(
        "a study takes what other weights answered for what its model did before training",
        "cluster/study.py",
        '"weights": _weights(settings.model.path),',
        '"weights": "",',
        "tests/unit/test_study_command.py::"
        "test_the_model_before_training_is_asked_again_where_its_answers_may_differ[weights]",
    ),
    Break(
        "bad rows count in no accuracy of a study",
        "cluster/study_results.py",
        "*[0.0] * bad_rows]",
        "*[0.0] * 0]",
        "tests/unit/test_study.py::test_bad_rows_are_wrong_in_all_that_an_evaluation_is_taken_for",
    ),
    Break(
        "predictions on a table whose clips are paths are written as if it were JSON",
        "cluster/prediction_file.py",
        'questions.container != "json"',
        "any(answer.example.clip.row is not None for answer in answers)",
        "tests/unit/test_prediction_file.py::"
        "test_a_table_whose_clips_are_paths_is_written_like_one_that_holds_them[parquet]",
    ),
    Break(
        "supervised fine-tuning ends with a group of errors",
        "cluster/supervised.py",
        "raise first_of(failed) from None",
        "raise failed",
        "tests/unit/test_supervised.py::"
        "test_weights_that_do_not_reach_the_engines_end_the_run_with_their_own_error[test-sft]",
    ),
    Break(
        "a definition's objects take any field",
        "tests/custom_resources.py",
        'mended["additionalProperties"] = False',
        "pass",
        f"{KUBERNETES}::test_an_object_that_keeps_unknown_fields_stays_open_and_others_are_closed",
    ),
    Break(
        "the engines' nodes have another label than the run asks for",
        "deploy/kubernetes/raycluster.yaml",
        "auricle-role: engine}",
        "auricle-role: engines}",
        f"{KUBERNETES}::test_the_job_runs_auricle_on_every_node_of_its_cluster",
    ),
    Break(
        "the fence keeps the submitter out",
        "deploy/kubernetes/rayjob.yaml",
        "app.kubernetes.io/part-of: auricle # the fence lets it through",
        "app.kubernetes.io/part-of: submitters",
        f"{KUBERNETES}::test_the_fence_stands_around_every_pod_and_lets_them_reach_each_other[submitter]",
    ),
    Break(
        "the job's metrics are on another port than the service's",
        "deploy/kubernetes/rayjob.yaml",
        "metrics.port=9464",
        "metrics.port=9465",
        f"{KUBERNETES}::test_the_port_of_the_run_is_the_one_that_is_opened_served_and_let_through",
    ),
    Break(
        "the composition mounts the runs where the run does not write",
        "deploy/docker/compose.yaml",
        "      - runs:/runs\n",
        "      - runs:/auricle/runs\n",
        "tests/unit/test_containers.py::test_the_training_service_is_built_from_this_checkout_and_launches_a_run",
    ),
    Break(
        "a run that is there is started anew",
        "cluster/launch.py",
        "resume=options.resume or there",
        "resume=options.resume",
        "tests/unit/test_launch.py::test_what_is_started_again_goes_on_where_the_run_is_there",
    ),
    Break(
        "an actor's metrics can be read from anywhere",
        "actors/exporter.py",
        "host = settings.host if own(settings.host) else node",
        'host = "0.0.0.0"',
        "tests/unit/test_exporter.py::test_loopback_is_not_left_by_default",
    ),
    Break(
        "Prometheus is told to scrape a run that has ended",
        "cluster/targets.py",
        "finally:\n        file.unlink(missing_ok=True)",
        "finally:\n        pass",
        "tests/unit/test_targets.py::test_the_list_is_taken_back_when_the_run_fails",
    ),
    Break(
        "an evaluation looks like a stalled run",
        "cluster/training_loop.py",
        "advance()\n                self.metrics.progress()",
        "advance()",
        "tests/unit/test_controller.py::test_an_answer_of_an_evaluation_is_progress_and_no_step",
    ),
    Break(
        "weights that are late are not told of",
        "cluster/delivery.py",
        "self._begun = begun = time.perf_counter()",
        "begun = time.perf_counter()",
        "tests/unit/test_delivery.py::test_a_delivery_is_pending_until_every_engine_has_the_version",
    ),
    Break(
        "a checkpoint by URL counts before it is whole",
        "cluster/run_storage.py",
        "if parts[1:] == [WHOLE]",
        "if parts[1:]",
        "tests/unit/test_run_storage.py::test_checkpoints_are_complete_or_not_there_and_the_newest_are_kept",
    ),
    Break(
        "a checkpoint by URL is there before the steps that led up to it",
        "cluster/run_storage.py",
        "self.publish()  # what leads up to it is there before it",
        "pass",
        "tests/unit/test_run_storage.py::test_a_checkpoint_by_url_is_there_only_after_the_steps_before_it",
    ),
    Break(
        "two processes are at work on a run by URL",
        "cluster/run_lock.py",
        "if silent < SILENT_SECONDS and not ended:",
        "if False:",
        "tests/unit/test_run_storage.py::test_a_run_that_goes_on_is_refused_with_its_process_and_host",
    ),
    Break(
        "the checkpoint that replaced engines start from is removed",
        "cluster/checkpoints.py",
        "kept = {*keep(self.steps()), self._started_from, step}",
        "kept = {*keep(self.steps()), step}",
        "tests/unit/test_run_storage.py::test_the_checkpoint_that_a_resume_starts_from_stays_as_long_as_it_goes_on",
    ),
    Break(
        "a model by URL that has changed is not copied again",
        "data/remote.py",
        "[remote.url, files]",
        "[remote.url, [*files]]",
        "tests/unit/test_run_storage.py::test_a_model_by_url_is_copied_once_and_again_when_it_changes",
    ),
    Break(
        "an end is not given up where Ray has gone",
        "cluster/waiting.py",
        "with suppress(RayError):",
        "with suppress(ZeroDivisionError):",
        "tests/unit/test_waiting.py::test_what_ends_is_given_up_when_ray_has_gone",
    ),
)
