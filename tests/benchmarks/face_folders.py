"""Folders of tiny images laid out like CK+, MMI, Oulu-CASIA and CelebA, for tests: noise, no faces."""

import shutil

import datasets
import numpy as np
from PIL import Image
from purifybench.faces import celeba
from purifybench.faces.layouts import MMI_CODES


def write_image(path, value=0, size=(24, 20), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 40, (size[1], size[0], 3)) + value
    Image.fromarray(noise.astype(np.uint8)).convert(mode).save(path)


def ck_plus(folder, people=4, frames=5, images="cohn-kanade-images"):
    for person in range(people):
        for sequence, code in enumerate(range(8)):
            place = f"S{person:03}/{sequence:03}"
            for frame in range(1, frames + 1):
                write_image(folder / images / place / f"S{person:03}_{sequence:03}_{frame:08}.png", frame, mode="L")
            label = folder / "Emotion" / place / f"S{person:03}_{sequence:03}_{frames:08}_emotion.txt"
            label.parent.mkdir(parents=True)
            label.write_text(f"   {code}.0000000e+00\n")
        write_image(folder / images / f"S{person:03}/099/S{person:03}_099_00000001.png")  # most of CK+ has no emotion file
    return folder


def oulu(folder, people=4, root="OriginalImg/VL/Strong"):
    for person in range(people):
        for name in ("Anger", "Disgust", "Fear", "Happiness", "Sadness", "Surprise"):
            for frame in range(5):
                write_image(folder / root / f"P{person:03}" / name / f"{frame:03}.jpeg", frame)
    return folder


def mmi_session(folder, number, person, code, view="0", frames=7):
    session = folder / "Sessions" / str(number)
    for frame in range(frames):
        write_image(session / f"S{person:03}-{number:03}_{frame:04}.png", frame)
    session.mkdir(parents=True, exist_ok=True)
    tags = "" if code is None else f'<Metatag Name="Emotion" Value="{code}"/>'
    (session / f"S{person:03}-{number:03}.xml").write_text(f'<Session><Metatag Name="AU" Value="3"/>{tags}</Session>')
    (session / "session.xml").write_text(f'<session><track type="Video" view="{view}"/></session>')
    return session


def mmi(folder, people=4, frames=7):
    for person in range(people):
        for code in MMI_CODES:
            mmi_session(folder, 10 * person + code, person, code, frames=frames)
    return folder


def plain_folders(folder, people=4, names=("angry", "Disgust", "fear", "happy", "sad", "surprised", "contempt", "neutral")):
    for person in range(people):
        for name in names:
            write_image(folder / name / f"S{person:03}_004_00000017.png", person)
    return folder


def celeba_rows(rows=40):
    """Hair in turn black, blond, brown, gray, none, black and blond; every third smiles."""
    hair = [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 0, 0), (1, 1, 0, 0)]
    return [(*hair[row % len(hair)], int(row % 3 == 0)) for row in range(rows)]


def celeba_folder(folder, rows=40):
    names = ["5_o_Clock_Shadow", *celeba.COLUMNS, "Young"]
    lines = [str(rows), " ".join(names)]
    for number, values in enumerate(celeba_rows(rows), 1):
        write_image(folder / "img_align_celeba" / f"{number:06}.jpg", number, size=(18, 22))
        lines.append(" ".join([f"{number:06}.jpg", "-1", *(" 1" if value else "-1" for value in values), " 1"]))
    (folder / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    return folder


def celeba_parquet(folder, rows=40):
    columns = dict(zip(celeba.COLUMNS, np.array(celeba_rows(rows), bool).T, strict=True))
    images = [Image.new("RGB", (18, 22), (number, 0, 0)) for number in range(rows)]
    table = datasets.Dataset.from_dict({"image": images, "celeb_id": list(range(rows)), **columns})
    folder.mkdir(parents=True)
    table.cast_column("image", datasets.Image()).to_parquet(folder / "train-00000-of-00001.parquet")
    return folder


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()
