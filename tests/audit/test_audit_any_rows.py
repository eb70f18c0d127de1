"""The audit, the leakage and the map take what `GroupSampler` takes: vectors, texts, data frames, folders, several labels."""

import numpy as np
import pytest
import torch
from audit_rows import FAST
from PIL import Image
from torch import nn

pytest.importorskip("sklearn")
from wdpurify import GroupSampler
from wdpurify.audit import audit, feature_map, leakage
from wdpurify.audit._progress import watched
from wdpurify.exceptions import AuxiliaryDataWarning

QUICK = {"permutations": 20}
SITES = ["north", "south"] * 60


def _vectors():
    torch.manual_seed(0)
    rows = torch.randn(120, 6)
    rows[::2, 0] += 4
    return rows


def _net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


class TextNet(nn.Module):
    """A mean of embedded tokens, which padding would change if it counted."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(128, 16)
        self.classifier = nn.Linear(16, 2)

    def forward(self, input_ids, attention_mask):
        kept = self.embedding(input_ids) * attention_mask[:, :, None]
        return self.classifier(kept.sum(1) / attention_mask.sum(1, keepdim=True))


def _tokenize(texts):
    longest = max(map(len, texts))
    ids = torch.tensor([[ord(letter) for letter in text.ljust(longest, chr(0))] for text in texts])
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


TEXTS = [("xxxx xx" if row % 2 else "yyyy") + "  abcdefgh"[: row % 7] for row in range(120)]


def test_vectors_arrays_lists_and_data_sets_have_one_leakage():
    rows, net = _vectors(), _net()
    expected = leakage(net, rows, SITES, **QUICK)
    assert expected.balanced_accuracy > 0.85
    sources = [
        rows.numpy(),
        rows.double().numpy(),
        list(rows),
        [(row, 1) for row in rows],
        torch.utils.data.TensorDataset(rows),
    ]
    for source in sources:
        assert leakage(net, source, SITES, **QUICK) == expected
        GroupSampler(source, SITES).next_batch()  # which takes the same


def test_texts_go_through_the_collate_fn_and_padding_does_not_count():
    found = leakage(TextNet(), TEXTS, SITES, collate_fn=_tokenize, **QUICK)
    assert found.balanced_accuracy > 0.95
    assert leakage(TextNet(), TEXTS, SITES, transform=_tokenize, **QUICK) == found
    pd = pytest.importorskip("pandas")
    shuffled = pd.Series(TEXTS, index=range(120, 0, -1))
    assert leakage(TextNet(), shuffled, pd.Series(SITES), collate_fn=_tokenize, **QUICK) == found
    drawn = feature_map({"net": TextNet()}, TEXTS, SITES, SITES, collate_fn=_tokenize, projection="pca", **QUICK)
    assert drawn.models[0].leakage == found


def test_embeddings_in_an_array_need_no_model():
    rows = _vectors()
    expected = leakage(None, rows, SITES, **QUICK)
    assert leakage(None, rows.double().numpy(), SITES, **QUICK) == expected
    drawn = feature_map({"embeddings": rows.numpy()}, None, SITES, SITES, projection="pca", **QUICK)
    assert drawn.models[0].leakage == expected


def test_a_folder_of_pictures_is_read_as_it_is(tmp_path):
    folders = pytest.importorskip("torchvision.datasets")
    for row in range(24):
        (tmp_path / SITES[row]).mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (200 * (row % 2), row, 0)).save(tmp_path / SITES[row] / f"{row}.png")
    prepare = lambda picture: torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255  # noqa: E731
    folder = folders.ImageFolder(tmp_path, transform=prepare)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    assert leakage(net, folder, folder.targets, **QUICK).balanced_accuracy == 1
    raw = folders.ImageFolder(tmp_path)
    found = audit(net, (raw, raw.targets), None, ["label"], **FAST | {"steps": 2, "repeats": 2})
    assert found["label"].leakage.balanced_accuracy == 1


def test_several_labels_have_a_leakage_each_and_one_forward():
    pd = pytest.importorskip("pandas")
    rows, net, calls = _vectors(), _net(), []
    net.register_forward_hook(lambda *_: calls.append(1))
    people = pd.DataFrame({"site": SITES, "age": np.linspace(20, 70, 120), "sex": ["f", None, "m"] * 40})
    with pytest.warns(AuxiliaryDataWarning, match="cut into ranges: 20 to 32"):
        found = leakage(net, rows, people, **QUICK)
    assert list(found) == ["site", "age", "sex"]
    assert found["site"] == leakage(net, rows, SITES, **QUICK)
    assert found["age"].values == 4
    assert found["sex"].rows == 80
    assert str(found).splitlines()[0] == f"site: {found['site']}"
    with pytest.warns(AuxiliaryDataWarning):
        assert leakage(net, rows, {name: people[name] for name in people}, **QUICK) == found
    with pytest.raises(ValueError, match="in column 'none': all rows have the same value, 1"):
        leakage(net, rows, {"site": SITES, "none": [1] * 120}, **QUICK)


def test_the_audit_takes_vectors_and_texts():
    fast = FAST | {"steps": 2, "repeats": 2}
    rows, classes = _vectors(), [0, 0, 1, 1] * 30
    with pytest.warns(AuxiliaryDataWarning, match="cut into ranges"):
        found = audit(
            _net(), (rows, classes), (rows.numpy(), {"site": SITES, "age": list(range(120))}), ["site", "age"], **fast
        )
    assert found["site"].leakage.balanced_accuracy > 0.85
    assert set(found["age"].column.counts.values()) == {30}
    texts = audit(TextNet(), (TEXTS, classes), (TEXTS, {"site": SITES}), ["site"], collate_fn=_tokenize, **fast)
    assert texts["site"].leakage.balanced_accuracy > 0.95
    named = [{"text": text, "label": label, "site": site} for text, label, site in zip(TEXTS, classes, SITES, strict=True)]
    datasets = pytest.importorskip("datasets")
    again = audit(TextNet(), datasets.Dataset.from_list(named), None, ["site"], image="text", collate_fn=_tokenize, **fast)
    assert again["site"].leakage == texts["site"].leakage


def test_what_the_sampler_refuses_is_refused_with_the_same_remedy():
    rows = _vectors()
    with pytest.raises(TypeError, match=r"`rows` must be indexed by row number, got a DataLoader.* Give `rows.dataset`"):
        leakage(_net(), torch.utils.data.DataLoader(rows), SITES)
    with pytest.raises(TypeError, match="paths of pictures, which nothing opens"):
        leakage(_net(), ["a.png"] * 120, SITES)
    with pytest.raises(ValueError, match=r"got 119 for 120\. Let `collate_fn` and `transform` keep every row"):
        leakage(_net(), rows, SITES, transform=lambda batch: batch[:-1])


def test_a_bar_is_shown_in_a_terminal_and_takes_no_entry(monkeypatch, capsys):
    assert list(watched(range(3), "features")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert list(watched(range(3), "features")) == [0, 1, 2]


def test_the_former_name_of_the_rows_works_and_says_so():
    expected = leakage(None, _vectors(), SITES, **QUICK)
    with pytest.warns(DeprecationWarning, match="`images` is now `rows`"):
        assert leakage(None, images=_vectors(), groups=SITES, **QUICK) == expected
