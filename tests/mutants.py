"""Faults that a reader would think of first, and the tests that must see them: python tests/mutants.py [NAME ...]

Each is put into a copy of the tree, by itself, and its tests are run there until one fails. Prints which test killed
which mutant; exit code 1 if one survives, breaks more than its tests, or no longer fits the code. Takes half an
hour on two busy cores, so the suite only holds that every mutant still fits (test_mutants.py).
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LEFT_OUT = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", "docs", "runs", "outputs", "*.egg-info", ".venv")


class Mutant(NamedTuple):
    """Attributes:
    name: what is wrong with it.
    file: below ssd_jax/.
    old, new: text that occurs once, and what stands there instead.
    tests: pytest's arguments; some of these tests must fail.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


# Laws of single tokens, where draws that hang together show most: of a raster window, and of a block.
SETTLED = "decode/test_window_laws.py -k every_token"
BLOCKS = "decode/test_window_laws.py -k 'every_token and rows'"

MUTANTS = [
    # Who sees whom, and where things lie.
    Mutant(
        "causal mask: the next slot is seen",
        "sequence/masks.py",
        "(cache <= own)) |",
        "(cache <= own + 1)) |",
        "sequence/test_masks_layout.py::test_causal_mask_of_a_window",
    ),
    Mutant(
        "causal mask: padding in front is seen",
        "sequence/masks.py",
        "(cache >= starts[:, None, None]) & (cache <= own)",
        "(cache <= own)",
        "sequence/test_masks_layout.py::test_causal_mask_of_a_window",
    ),
    Mutant(
        "row mask: what is committed is not seen",
        "sequence/masks.py",
        "(cache < committed[:, None, None]) | own_row",
        "own_row",
        "sequence/test_masks.py::test_row_mask_of_rows_1_and_2",
    ),
    Mutant(
        "row mask: one slot too many is committed",
        "sequence/masks.py",
        "cache < committed",
        "cache <= committed",
        "sequence/test_masks.py::test_row_mask_of_rows_1_and_2",
    ),
    Mutant(
        "rotary positions count from the padding",
        "sequence/layout.py",
        "jnp.maximum(slots - starts[:, None], 0)",
        "slots + 0 * starts[:, None]",
        "sequence/test_masks_layout.py::test_rotary_positions_count_from_the_first_real_token",
    ),
    Mutant(
        "rotary pairs turn the wrong way",
        "models/layers.py",
        "second * cos + first * sin",
        "second * cos - first * sin",
        "backbones/test_backbones.py",
    ),
    Mutant(
        "cache: written one slot further",
        "sequence/cache.py",
        "row.at[:, slots]",
        "row.at[:, slots + 1]",
        "sequence/test_cache.py::test_rows_are_written_at_their_own_slots",
    ),
    Mutant(
        "row ends: the last of a row is read at itself",
        "sequence/layout.py",
        "jnp.where(ending, slot, jnp.arange(W, dtype=jnp.int32))",
        "jnp.broadcast_to(jnp.arange(W, dtype=jnp.int32), slot.shape)",
        "decode/test_row_ends.py::test_a_window_has_slots_for_its_row_ends",
    ),
    Mutant(
        "row ends: outputs are not looked up",
        "decode/model_verifier.py",
        "jnp.take_along_axis(hidden, outputs[..., None], axis=1)",
        "hidden[:, : codes.shape[1]]",
        "decode/test_row_ends.py::test_ar_is_ancestral_sampling_over_whole_sequences",
    ),
    Mutant(
        "prefill: the state before the last",
        "decode/engine.py",
        "return hidden[:, -1:], cache",
        "return hidden[:, -2:-1], cache",
        "models/test_transformer.py::test_prefill_returns_the_state_that_predicts_the_first_code",
    ),
    Mutant(
        "embedding: codes taken for words",
        "models/transformer.py",
        "self.embed(codes + self.config.visual_offset)",
        "self.embed(codes)",
        "models/test_transformer.py::test_teacher_forcing_equals_the_full_forward",
    ),
    Mutant(
        "attention: query heads grouped the other way",
        "models/attention.py",
        "q.reshape(B, W, K, N // K, H).transpose(0, 2, 3, 1, 4)",
        "q.reshape(B, W, N // K, K, H).transpose(0, 3, 2, 1, 4)",
        "models/test_attention.py::test_fused_is_plain",
    ),
    Mutant(
        "teacher forcing: codes are read a token late",
        "models/teacher_forcing.py",
        "((0, 0), (ids.shape[1] - 1, spare))",
        "((0, 0), (ids.shape[1], spare))",
        "models/test_teacher_forcing.py::test_what_is_read_of_a_window_is_given_the_codes_that_it_predicts",
    ),
    # What users ask for, and where it goes.
    Mutant(
        "guidance: no bound below",
        "pipeline/request.py",
        "abs(scale) > MAX_GUIDANCE",
        "scale > MAX_GUIDANCE",
        "pipeline/test_request.py::test_what_float32_cannot_do_is_refused",
    ),
    Mutant(
        "lock: whatever lies there is this run's",
        "lock.py",
        "return os.path.samestat(os.fstat(file), path.lstat())",
        "return True",
        "cli/test_output_folders.py::test_a_lock_that_somebody_removed_takes_no_other_run_s_with_it",
    ),
    Mutant(
        "results: a sidecar may list names of any kind",
        "results.py",
        'isinstance(name, str) and name.isprintable() and not set(name) & set("/\\\\:")',
        "True",
        "cli/test_output_folders.py::test_a_sidecar_that_names_anything_but_pictures_here_removes_nothing",
    ),
    # From logits to tokens.
    Mutant(
        "guidance: u and c swapped",
        "sampling/distribution.py",
        "conditional, unconditional = jnp.split(logits, 2)",
        "unconditional, conditional = jnp.split(logits, 2)",
        "sampling/test_sampling.py::test_guidance_leads_away_from_the_unconditional_rows",
    ),
    Mutant(
        "top-k: codes as likely as the k-th are cut",
        "sampling/distribution.py",
        "x >= kth_largest(x, sampler.top_k)",
        "x > kth_largest(x, sampler.top_k)",
        "sampling/test_sampling.py::test_top_k_keeps_what_a_sort_keeps",
    ),
    Mutant(
        "top-k: one code too many",
        "sampling/distribution.py",
        "x >= kth_largest(x, sampler.top_k)",
        "x >= kth_largest(x, sampler.top_k + 1)",
        "sampling/test_sampling.py::test_top_k_keeps_what_a_sort_keeps",
    ),
    Mutant(
        "top-p: the code that reaches the mass is cut",
        "sampling/distribution.py",
        "jnp.where(bits >= threshold, logits, -jnp.inf)",
        "jnp.where(bits > threshold, logits, -jnp.inf)",
        "sampling/test_sampling.py::test_top_p_keeps_the_smallest_set_that_reaches_the_mass",
    ),
    Mutant(
        "top-p: a set of exactly the mass is not enough",
        "sampling/distribution.py",
        "keepdims=True) >= top_p",
        "keepdims=True) > top_p",
        "sampling/test_sampling.py::test_top_p_keeps_the_smallest_set_that_reaches_the_mass",
    ),
    Mutant(
        "temperature multiplies",
        "sampling/distribution.py",
        "return logits / sampler.temperature",
        "return logits * sampler.temperature",
        "sampling/test_sampling.py::test_temperature_divides_the_logits",
    ),
    Mutant(
        "keys without the position",
        "sampling/noise.py",
        "jax.vmap(jax.vmap(jax.random.fold_in, in_axes=(None, 0)))(keys, positions)",
        "jax.vmap(jax.vmap(lambda key, position: key, in_axes=(None, 0)))(keys, positions)",
        "sampling/test_threefry.py::test_keys",
    ),
    Mutant(
        "keys without the number of the pass",
        "sampling/noise.py",
        "jax.random.fold_in(jax.random.fold_in(key, tag), pass_index)",
        "jax.random.fold_in(key, tag)",
        "sampling/test_threefry.py::test_keys",
    ),
    Mutant(
        "keys without the purpose",
        "sampling/noise.py",
        "jax.random.fold_in(jax.random.fold_in(key, tag), pass_index)",
        "jax.random.fold_in(key, pass_index)",
        "sampling/test_threefry.py::test_keys",
    ),
    Mutant(
        "keys without the image's number",
        "sampling/noise.py",
        "jax.random.fold_in(jax.random.key(seed, impl=GENERATOR), number)",
        "jax.random.key(seed, impl=GENERATOR)",
        "sampling/test_sampling.py::test_noise_depends_on_seed_number_and_position_and_on_nothing_else",
    ),
    # What is kept of drafts.
    Mutant(
        "residual: |p - q|",
        "sampling/distribution.py",
        "jnp.maximum(jnp.exp(log_p) - jnp.exp(log_q), 0.0)",
        "jnp.abs(jnp.exp(log_p) - jnp.exp(log_q))",
        SETTLED,
    ),
    Mutant(
        "residual: p itself",
        "sampling/distribution.py",
        "jnp.maximum(jnp.exp(log_p) - jnp.exp(log_q), 0.0)",
        "jnp.exp(log_p)",
        SETTLED,
    ),
    Mutant(
        "residual: q - p",
        "sampling/distribution.py",
        "jnp.maximum(jnp.exp(log_p) - jnp.exp(log_q), 0.0)",
        "jnp.maximum(jnp.exp(log_q) - jnp.exp(log_p), 0.0)",
        SETTLED,
    ),
    Mutant(
        "acceptance: q / p",
        "decode/acceptance.py",
        "_at(log_p, drafts) - _at(log_q, drafts), 0.0",
        "_at(log_q, drafts) - _at(log_p, drafts), 0.0",
        SETTLED,
    ),
    Mutant(
        "acceptance: always",
        "decode/acceptance.py",
        "Tag.ACCEPT, pass_index)) < chance",
        "Tag.ACCEPT, pass_index)) < chance + 1",
        SETTLED,
    ),
    Mutant(
        "acceptance: <= keeps what is impossible",
        "decode/acceptance.py",
        "Tag.ACCEPT, pass_index)) < chance",
        "Tag.ACCEPT, pass_index)) <= chance",
        "decode/test_acceptance.py::test_an_impossible_draft_is_never_kept",
    ),
    Mutant(
        "one key accepts and corrects, in every decoder",
        "sampling/noise.py",
        "RESIDUAL = 2",
        "RESIDUAL = 1",
        SETTLED,
    ),
    Mutant(
        "one key accepts and corrects, in a raster window",
        "decode/acceptance.py",
        "axis=1), fresh_keys(keys, Tag.RESIDUAL, pass_index), plain)",
        "axis=1), fresh_keys(keys, Tag.ACCEPT, pass_index), plain)",
        SETTLED,
    ),
    Mutant(
        "one key accepts and corrects, in a block",
        "decode/acceptance.py",
        "keys = fresh_keys(verifier.keys(positions), Tag.RESIDUAL, pass_index)",
        "keys = fresh_keys(verifier.keys(positions), Tag.ACCEPT, pass_index)",
        BLOCKS,
    ),
    Mutant(
        "the keyed noise corrects",
        "decode/acceptance.py",
        "axis=1), fresh_keys(keys, Tag.RESIDUAL, pass_index), plain)",
        "axis=1), keys, plain)",
        SETTLED,
    ),
    Mutant(
        "SJD redraws with the keyed noise",
        "decode/acceptance.py",
        'plain = keys if coupling == "gumbel" else fresh_keys(keys, Tag.RESAMPLE, pass_index)',
        "plain = keys",
        "decode/test_loops.py::test_resampling_takes_clearly_more_passes_than_coupling",
    ),
    Mutant(
        "GSD: the group is one id too high",
        "decode/acceptance.py",
        "min((size + 1) // 2 - 1, V)",
        "min((size + 1) // 2, V)",
        "decode/test_gsd.py::test_equals_the_reference",
    ),
    # The loops.
    Mutant(
        "ar: the noise of the position before",
        "decode/ar.py",
        "choose(verifier.constrain(log_p, positions), verifier.noise(positions))",
        "choose(verifier.constrain(log_p, positions), verifier.noise(positions - 1))",
        "decode/test_ar.py::test_ar_equals_a_slow_loop_over_full_forwards",
    ),
    Mutant(
        "raster: a token too many is committed",
        "decode/raster.py",
        "first = jnp.minimum(s.first + m + 1, grid.size)",
        "first = jnp.minimum(s.first + m + 2, grid.size)",
        "decode/test_loops.py::test_odd_grids -k match",
    ),
    Mutant(
        "raster: q of the neighbour",
        "decode/raster.py",
        "slices(both, m + 1, W - 1)",
        "slices(both, m, W - 1)",
        "decode/test_lossless.py -k 'follows_the_law and maximal'",
    ),
    Mutant(
        "drafts from above: from two rows above",
        "decode/drafting.py",
        "positions - cols * -((last - positions) // cols)",
        "positions - cols * (1 - (last - positions) // cols)",
        "decode/test_drafting.py::test_where_a_copied_draft_comes_from",
    ),
    Mutant(
        "history: the one above decides before the left one",
        "decode/history.py",
        "4 * left + 2 * above + second",
        "2 * left + 4 * above + second",
        "decode/test_history.py::test_every_sweep_is_the_rule",
    ),
    Mutant(
        "history: the oldest pass decides",
        "decode/history.py",
        "* H - age[..., None]",
        "* H + age[..., None]",
        "decode/test_history.py::test_every_sweep_is_the_rule",
    ),
    Mutant(
        "alternatives: an answer across a row end counts as known",
        "decode/alternatives.py",
        "following[:, 0] % grid.cols != 0",
        "following[:, 0] % grid.cols >= 0",
        "decode/test_alternatives.py::test_a_known_answer_is_the_token_of_ar",
    ),
    Mutant(
        "alternatives: one sees the draft in whose place it stands",
        "sequence/masks.py",
        "(cache < slots[:, :, None])",
        "(cache <= slots[:, :, None])",
        "decode/test_alternatives.py::test_a_token_beside_the_window_has_the_state_that_it_has_in_it",
    ),
    Mutant(
        "given tokens: the wave draws over them",
        "decode/wave.py",
        "verifier.log_p_at(hidden[:, outputs[k]], live)",
        "verifier.log_p(hidden[:, outputs[k]])",
        "decode/test_given_tokens.py::test_every_decoder_keeps_given_tokens",
    ),
    Mutant(
        "SSD, staged: the first row freezes a round late",
        "decode/blocks.py",
        "s.stage >= phase.joint",
        "s.stage > phase.joint",
        "decode/test_cost.py::test_rows_settle_when_their_rounds_end",
    ),
    Mutant(
        "SSD: every pass drafts the block anew",
        "decode/blocks.py",
        "(s.stage == 0) & (s.base < phase.end)",
        "s.base < phase.end",
        "decode/test_cost.py::test_rows_settle_when_their_rounds_end",
    ),
    Mutant(
        "SSD, staged: a last row by itself freezes, too",
        "decode/blocks.py",
        "frozen = full[:, None] & ",
        "frozen = ",
        "decode/test_cost.py::test_rows_settle_when_their_rounds_end",
    ),
    Mutant(
        "SSD: later rounds compare with the heads' q",
        "decode/blocks.py",
        "return tokens, jnp.where(verifying[:, None, None], log_p, s.log_q)",
        "return tokens, s.log_q",
        "decode/test_lossless.py -k 'follows_the_law and auto'",
    ),
    Mutant(
        "SSD: a block of two rows leaves the states of its first",
        "decode/rows.py",
        "hidden[:, -grid.cols :]",
        "hidden[:, : grid.cols]",
        "models/test_draft_heads.py::test_rows_are_drafted_from_the_whole_row_above",
    ),
    Mutant(
        "SSD: rows are drafted from two rows above",
        "decode/rows.py",
        "above = base[:, None] - grid.cols + columns",
        "above = base[:, None] - 2 * grid.cols + columns",
        "models/test_draft_heads.py::test_rows_are_drafted_from_the_whole_row_above",
    ),
    Mutant(
        "heads: e and h swapped",
        "models/draft_heads.py",
        "jnp.concatenate([hidden, embeddings], axis=-1)",
        "jnp.concatenate([embeddings, hidden], axis=-1)",
        "models/test_draft_heads.py::test_heads_follow_their_formula",
    ),
    Mutant(
        "mtp: heads draft from the state before the newest",
        "decode/mtp.py",
        "jnp.tile(m, hidden",
        "jnp.tile(jnp.maximum(m - 1, 0), hidden",
        "decode/test_mtp.py::test_every_pass_drafts_from_the_last_committed_token",
    ),
    Mutant(
        "mtp: drafts use the noise of the position before",
        "decode/mtp.py",
        "verifier.noise(positions[:, :-1])",
        "verifier.noise(inputs[:, :-1])",
        "decode/test_mtp.py::test_a_window_is_the_last_committed_token_and_head_drafts_alone",
    ),
    Mutant(
        "wave: products just below a whole number",
        "decode/schedule.py",
        "right * col + 1e-9",
        "right * col",
        "decode/test_wave.py::test_times_are_those_of_exact_arithmetic",
    ),
    Mutant(
        "wave: rounded up",
        "decode/schedule.py",
        "np.floor(down * row",
        "np.ceil(down * row",
        "decode/test_wave.py::test_a_small_schedule_by_hand",
    ),
    Mutant(
        "wave: a correction too many",
        "decode/schedule.py",
        "final - k < depth",
        "final - k <= depth",
        "decode/test_wave.py::test_what_every_pass_may_rely_on",
    ),
    Mutant(
        "wave: final tokens are not fed again",
        "decode/schedule.py",
        "is_fed = is_live | (final == k - 1)",
        "is_fed = is_live | (final < 0)",
        "decode/test_wave.py::test_what_every_pass_may_rely_on",
    ),
    Mutant(
        "wave: token 0's state is not the prefill's",
        "decode/wave.py",
        "(new[k] == 0) & (jnp.arange(C) == 0)[:, None]",
        "(new[k] < -1) & (jnp.arange(C) == 0)[:, None]",
        "decode/test_wave.py::test_heads_draft_a_row_from_the_states_that_predicted_the_one_above",
    ),
    # The tree loop.
    Mutant(
        "tree: tokens from beside the window are not fed again",
        "decode/tree.py",
        "begin = jnp.maximum(newest - levels, 0)",
        "begin = newest",
        "decode/test_lossless.py -k 'follows_the_law and tree'",
    ),
    Mutant(
        "tree: siblings are tried against q with the draft",
        "decode/branches.py",
        "jax.nn.log_softmax(without(log_q, code), axis=-1), log_q)",
        "log_q, log_q)",
        "decode/test_tree.py -k walk",
    ),
    Mutant(
        "tree: a path goes on behind a row end that was not fed",
        "decode/branches.py",
        "going &= (path == 0) | (positions[:, level] % cols != cols - 1)",
        "pass",
        "decode/test_tree.py -k behind_a_row_end",
    ),
    Mutant(
        "tree: a node sees its children",
        "decode/branches.py",
        "path[: len(other)] == other for other in paths] for path in paths",
        "other[: len(path)] == path for other in paths] for path in paths",
        "decode/test_tree.py -k 'nodes or node_has'",
    ),
    # Parallel Jacobi decoding.
    Mutant(
        "pjd: a row sees the drafts of those above it",
        "sequence/masks.py",
        "(col < counts[:, np.clip(row_of[0], 0, counts.shape[1] - 1)])",
        "(col < counts[:, np.clip(row_of[0], 0, counts.shape[1] - 1)] + 2)",
        "decode/test_pjd.py -k 'slow_loop and released'",
    ),
    Mutant(
        "pjd: every row commits a correction's draw, from the residual",
        "decode/acceptance.py",
        "(place == m[..., None]) & (place < drafted) & is_top[..., None]",
        "(place == m[..., None]) & (place < drafted)",
        "decode/test_pjd.py -k 'slow_loop and published'",
    ),
    Mutant(
        "pjd: a draft that stays forgets its q",
        "decode/pjd.py",
        "jnp.where(kept[..., None], jnp.pad(log_q, ((0, 0), (0, 0), (0, 1), (0, 0))), log_p)",
        "log_p",
        "decode/test_pjd.py -k 'slow_loop and released'",
    ),
    Mutant(
        "pjd: a row's first input is the token before it, not the row end",
        "decode/model_verifier.py",
        "x, places = jnp.where(leads[..., None], row_end, x), places + leads.astype(jnp.int32)",
        "places = places + leads.astype(jnp.int32) + 0 * row_end.size",
        "decode/test_pjd.py -k 'slow_loop and row'",
    ),
    Mutant(
        "pjd: the last token of a complete row is not fed",
        "decode/pjd.py",
        "jnp.where((s.top > 0) & (s.top < grid.rows) & ~is_lead, last, N)",
        "jnp.full_like(last, N)",
        "decode/test_pjd.py -k 'slow_loop and published'",
    ),
    Mutant(
        "pjd: a row may draft beside the one above it",
        "decode/pjd.py",
        "jnp.where(is_top, C, above) - count",
        "jnp.where(is_top, C, jnp.minimum(above + 1, C)) - count",
        "decode/test_pjd.py -k stay_behind",
    ),
    # FlashAR.
    Mutant(
        "flash: a token sees nothing of its own diagonal",
        "sequence/masks.py",
        "place // pitch + place % pitch <= of // pitch + of % pitch",
        "place // pitch + place % pitch < of // pitch + of % pitch",
        "decode/test_flash.py -k 'slow_loop and square'",
    ),
    Mutant(
        "flash: row ends are seen",
        "sequence/masks.py",
        "(place % pitch < cols) & nearer",
        "nearer",
        "decode/test_flash.py -k 'slow_loop and tall'",
    ),
    Mutant(
        "flash: the branch sees the prompt",
        "models/forked.py",
        "image = seen & ((keys >= first) | (keys == slots[:, :, None]))",
        "image = seen",
        "decode/test_flash.py -k 'slow_loop and square'",
    ),
    Mutant(
        "flash: column 0 is predicted from the left, too",
        "models/branch.py",
        "jnp.where(row == 0, 1.0, jnp.where(col == 0, 0.0, gate))",
        "jnp.where(row == 0, 1.0, gate)",
        "training/test_branch.py -k border",
    ),
    Mutant(
        "flash: a tall grid's upper neighbour keeps its place",
        "sequence/diagonals.py",
        "((same, before) if R <= C else (before, same))",
        "(same, before)",
        "decode/test_flash.py -k diagonals",
    ),
    Mutant(
        "training a branch: diagonals are cut between windows",
        "models/diagonal_forcing.py",
        "number = max(1, window // table.shape[1])\n",
        "table = table.reshape(-1, 1)\n    number = max(1, window)\n",
        "training/test_branch.py -k 'teacher_forcing and windows'",
    ),
    Mutant(
        "training a branch: grid row 0 counts as predicted from above",
        "training/branch.py",
        "position >= C",
        "position >= 0",
        "training/test_branch.py -k by_hand",
    ),
    Mutant(
        "FlashAR's checkpoint: the gate takes the branch's state first",
        "models/branch.py",
        "jnp.concatenate([normed, self.final_norm(below)], axis=-1)",
        "jnp.concatenate([self.final_norm(below), normed], axis=-1)",
        "backbones/test_flashar.py -k predicts",
    ),
    Mutant(
        "flash: a round draws with its neighbour's noise",
        "decode/flash.py",
        "choose(log_p, verifier.noise(fed + 1))",
        "choose(log_p, verifier.noise(fed))",
        "decode/test_flash.py -k rounds",
    ),
    # What is planned and measured.
    Mutant(
        "plan: a score is never read",
        "plan/attention.py",
        "2 * SCORE + 2 * jnp",
        "SCORE + 2 * jnp",
        "plan/test_plan.py::test_what_plain_attention_moves_by_hand",
    ),
    Mutant(
        "KID: pictures of one prompt are compared",
        "eval/distances.py",
        "    h = h - np.diag(np.diag(h))\n",
        "",
        "eval/test_distances.py::test_kernel_distance_equals_its_definition",
    ),
    Mutant(
        "FD: the bias of the fit stays in",
        "eval/distances.py",
        "parts * whole - (parts - 1) * without.mean()",
        "whole",
        "eval/test_distances.py -k 'unbiased and frechet'",
    ),
    Mutant(
        "intervals of means: pictures count, not prompts",
        "eval/estimates.py",
        "if prompts is not None:",
        "if False:",
        "eval/test_eval.py::test_a_mean_counts_prompts_not_pictures",
    ),
]


def faults(mutant: Mutant) -> list[str]:
    """Why a mutant no longer fits the tree, in words."""
    found = []
    count = (ROOT / "ssd_jax" / mutant.file).read_text(encoding="utf-8").count(mutant.old)
    if count != 1:
        found.append(f"{mutant.name}: {mutant.old!r} occurs {count} times in {mutant.file}")
    if mutant.new == mutant.old:
        found.append(f"{mutant.name}: nothing is changed")
    if not _there(mutant.tests):
        found.append(f"{mutant.name}: there is no test {mutant.tests}")
    return found


def _there(tests: str) -> bool:
    """Whether there is the file, in it the test, and somewhere in it every word of -k."""
    place, *options = shlex.split(tests)
    file, _, name = place.partition("::")
    path = ROOT / "tests" / file
    if not path.is_file() or options[:1] not in ([], ["-k"]):
        return False
    text = path.read_text(encoding="utf-8")
    words = set(re.findall(r"\w+", " ".join(options[1:]))) - {"and", "or", "not"}
    return (not name or f"def {name}(" in text) and all(word in text for word in words)


def run(tree: Path, tests: str) -> tuple[int, str]:
    """pytest's exit code in a tree, and the first test that failed."""
    # No bytecode: a file changed twice within a second would be taken for the old one.
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *shlex.split(f"tests/{tests}")]
    done = subprocess.run(command, cwd=tree, env=environment, text=True, capture_output=True, timeout=900)
    failed = re.search(r"^FAILED tests/(.*?)(?: - .*)?$", done.stdout, re.MULTILINE)
    return done.returncode, failed[1] if failed else done.stdout.strip().splitlines()[-1]


def main(names: list[str]) -> int:
    chosen = [mutant for mutant in MUTANTS if not names or any(name in mutant.name for name in names)]
    wrong = [fault for mutant in chosen for fault in faults(mutant)]
    print(*wrong, sep="\n", end="\n" if wrong else "")
    if wrong or not chosen:
        return 1
    failing, killed = 0, 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(shutil.copytree(ROOT, Path(folder) / "tree", ignore=LEFT_OUT))
        # Those without -k in one go.
        every = list(dict.fromkeys(mutant.tests for mutant in chosen))
        together = [tests for tests in every if " " not in tests]
        for tests in [" tests/".join(together), *(tests for tests in every if " " in tests)]:
            code, what = run(tree, tests) if tests else (0, "")
            if code:
                print(f"without a mutant: tests/{tests}: {what}", flush=True)
                failing += 1
        for mutant in chosen:
            path = tree / "ssd_jax" / mutant.file
            source = path.read_text(encoding="utf-8")
            path.write_text(source.replace(mutant.old, mutant.new), encoding="utf-8")
            code, what = run(tree, mutant.tests)
            path.write_text(source, encoding="utf-8")
            # 1: tests ran and failed. Anything else (nothing collected, an import that breaks) tells nothing.
            verdict = {0: "SURVIVED", 1: f"killed by {what}"}.get(code, f"NOT RUN: {what}")
            killed += code == 1
            print(f"{mutant.name:60} {verdict}", flush=True)
    print(f"{killed} of {len(chosen)} killed")
    return int(failing > 0 or killed < len(chosen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
