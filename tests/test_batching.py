from protloc.batching import TokenBudgetBatchSampler, packed_batches, token_budget_batches

LENGTHS = [(i * 37) % 400 + 1 for i in range(300)]


def padded(batch):
    return len(batch) * (max(LENGTHS[i] for i in batch) + 2)


def test_batches_keep_to_the_budget_and_hold_each_protein_once():
    batches = token_budget_batches(LENGTHS, 2000)
    assert sorted(i for batch in batches for i in batch) == list(range(300))
    assert max(padded(batch) for batch in batches) <= 2000
    tokens = sum(LENGTHS) + 2 * len(LENGTHS)
    assert sum(padded(batch) for batch in batches) < 1.05 * tokens  # hardly any padding


def test_a_sequence_over_the_budget_is_a_batch_of_its_own():
    assert token_budget_batches([5, 100, 6], 20) == [[1], [2, 0]]
    assert token_budget_batches([], 20) == []


def test_packed_batches_keep_the_order_and_pad_nothing():
    batches = packed_batches(LENGTHS, 2000)
    assert [i for batch in batches for i in batch] == list(range(300))
    tokens = [sum(LENGTHS[i] + 2 for i in batch) for batch in batches]
    assert max(tokens) <= 2000 and min(tokens[:-1]) > 1500
    assert packed_batches([5, 100, 6, 5], 20) == [[0], [1], [2, 3]]
    assert packed_batches([], 20) == []


def test_shuffled_batches_depend_on_seed_and_epoch_alone():
    sampler = TokenBudgetBatchSampler(LENGTHS, 2000, seed=1)
    first = list(sampler)
    assert sorted(i for batch in first for i in batch) == list(range(300))
    assert max(padded(batch) for batch in first) <= 2000
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert list(TokenBudgetBatchSampler(LENGTHS, 2000, seed=1)) == first
    assert list(TokenBudgetBatchSampler(LENGTHS, 2000, seed=2)) != first


def test_every_process_steps_as_often():
    for processes in (1, 2, 3, 7):
        assert len(TokenBudgetBatchSampler(LENGTHS, 2000, num_processes=processes)) % processes == 0
