from cryobase.stages.heads.config import HeadConfig, expand
from cryobase.stages.heads.stack import StackShape, plan


def params(**values):
    (one,) = expand({"a": HeadConfig(**values)}).values()
    return one


def shape(width=1280, classes=10, **values):
    return StackShape.of(params(**values), width, classes)


def test_a_stack_has_a_fixed_width_however_many_heads_it_holds():
    assert (shape().columns, shape().heads) == (256, 25)
    assert (shape(classes=2).heads, shape(classes=2, output="sigmoid").heads) == (128, 256)
    assert all(shape(classes=c).columns % 64 == 0 for c in range(2, 600))


def test_heads_with_inputs_of_their_own_have_a_stack_of_their_own():
    assert shape(dropout=0.1).heads == 1
    assert shape(classes=300).heads == 1
    assert shape(kind="mlp", units=100).layers == ((1280, 128), (128, 64))


def test_a_call_holds_whole_batches_and_not_too_many_values():
    assert (shape().steps, shape().rows) == (32, 1024)
    large = shape(width=41_472, batch_size=64)
    assert large.rows * 41_472 <= 1 << 24
    assert large.rows % 64 == 0
    assert shape(width=1 << 25).steps == 1


def test_heads_of_one_shape_share_stacks_and_all_share_a_read():
    heads = expand(
        {
            "linear": HeadConfig(seed=tuple(range(52))),
            "rms": HeadConfig(optimizer="rmsprop"),
            "twenty": HeadConfig(batch_size=20),
            "mlp": HeadConfig(kind="mlp", units=(64, 128)),
        }
    )
    (read,) = plan(heads, 1280, 10)
    sizes = sorted(len(stack.names) for stack in read.stacks)
    assert sizes == [1, 1, 1, 1, 2, 25, 25]
    assert sorted(name for stack in read.stacks for name in stack.names) == sorted(heads)
    assert all(read.rows % stack.shape.rows == 0 for stack in read.stacks)


def test_other_views_or_badly_matched_batches_are_reads_of_their_own():
    heads = expand({"a": HeadConfig(), "b": HeadConfig(views=2)})
    assert len(plan(heads, 1280, 10)) == 2
    odd = expand({f"b{size}": HeadConfig(batch_size=size) for size in (31, 37, 41, 43)})
    reads = plan(odd, 1280, 10)
    assert len(reads) > 1
    assert all(read.rows * 1280 <= 1 << 26 for read in reads)
