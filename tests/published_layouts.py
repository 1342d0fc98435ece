"""Every dataset as it is published: some of its files, and the label, mask and split that must be read from them."""

from __future__ import annotations

Layouts = dict[str, tuple[list[str], dict[str, tuple[str, str, str]]]]

# {dataset: (paths, {path: (label, mask, split)} of some of them)}
PUBLISHED: Layouts = {
    "CASIA2": (
        ["any name/Tp/Tp_D_CRN_M_N_cha00063_art00014_11818.tif", "any name/Au/Au_cha_00063.jpg"]
        + ["any name/CASIA 2 Groundtruth/Tp_D_CRN_M_N_cha00063_art00014_11818_gt.png"],
        {
            "any name/Tp/Tp_D_CRN_M_N_cha00063_art00014_11818.tif": (
                *("tampered", "any name/CASIA 2 Groundtruth/Tp_D_CRN_M_N_cha00063_art00014_11818_gt.png", ""),
            ),
            "any name/Au/Au_cha_00063.jpg": ("real", "", ""),
        },
    ),
    "FR": (
        [
            "x/ColorFakeImages/7.jpg",
            "x/ColorRealImages/8.jpg",
            "x/SegmentationFakePng/7.png",
            "x/SegmentationFake/7.npz",
        ],
        {
            "x/ColorFakeImages/7.jpg": ("tampered", "x/SegmentationFakePng/7.png", ""),
            "x/ColorRealImages/8.jpg": ("real", "", ""),
        },
    ),
    "CASIA1+": (
        [
            "CASIA 1.0 dataset/Tp/Sp/Sp_D_1.jpg",
            "CASIA 1.0 dataset/Tp/CM/Sp_S_2.jpg",
            "CASIA 1.0 dataset/Au/Au_ani_0001.jpg",
        ]
        + ["CASIA 1.0 groundtruth/Sp/Sp_D_1_gt.png", "CASIA 1.0 groundtruth/CM/Sp_S_2_gt.png"],
        {
            "CASIA 1.0 dataset/Tp/Sp/Sp_D_1.jpg": ("tampered", "CASIA 1.0 groundtruth/Sp/Sp_D_1_gt.png", ""),
            "CASIA 1.0 dataset/Tp/CM/Sp_S_2.jpg": ("tampered", "CASIA 1.0 groundtruth/CM/Sp_S_2_gt.png", ""),
            "CASIA 1.0 dataset/Au/Au_ani_0001.jpg": ("real", "", ""),
        },
    ),
    "IMD2020": (
        [f"IMD2020/1a1ogs/{n}" for n in ("1a1ogs_orig.jpg", "c8_0.png", "c8_0_mask.png", "c9.jpg", "c9_mask.png")],
        {
            "IMD2020/1a1ogs/1a1ogs_orig.jpg": ("real", "", ""),
            "IMD2020/1a1ogs/c8_0.png": ("tampered", "IMD2020/1a1ogs/c8_0_mask.png", ""),
            "IMD2020/1a1ogs/c9.jpg": ("tampered", "IMD2020/1a1ogs/c9_mask.png", ""),
        },
    ),
    "Columbia": (
        ["c/4cam_auth/canong3_02_sub_01.tif", "c/4cam_splc/canong3_canonxt_sub_01.tif"]
        + [f"c/4cam_splc/edgemask/canong3_canonxt_sub_01_{n}.jpg" for n in ("edgemask", "edgemask_3")],
        {
            "c/4cam_auth/canong3_02_sub_01.tif": ("real", "", ""),
            "c/4cam_splc/canong3_canonxt_sub_01.tif": (
                *("tampered", "c/4cam_splc/edgemask/canong3_canonxt_sub_01_edgemask.jpg", ""),
            ),
        },
    ),
    "coverage": (
        [f"COVERAGE/image/{n}.tif" for n in ("1", "1t")]
        + [f"COVERAGE/mask/{n}.tif" for n in ("1copy", "1paste", "1forged")],
        {
            "COVERAGE/image/1.tif": ("real", "", ""),
            "COVERAGE/image/1t.tif": ("tampered", "COVERAGE/mask/1forged.tif", ""),
        },
    ),
    "DSO": (
        ["tifs-database/DSO-1/splicing-01.png", "tifs-database/DSO-1/normal-01.png"]
        + ["tifs-database/DSO-1-Fake-Images-Masks/splicing-01.png"],
        {
            "tifs-database/DSO-1/splicing-01.png": (
                *("tampered", "tifs-database/DSO-1-Fake-Images-Masks/splicing-01.png", ""),
            ),
            "tifs-database/DSO-1/normal-01.png": ("real", "", ""),
        },
    ),
    "Korus": (
        [f"k/{c}/{f}/DPP0012.{s}" for c in ("Canon_60D", "Sony_A57") for f, s in (("pristine", "TIF"),)]
        + [f"k/Canon_60D/{f}/DPP0012.{s}" for f, s in (("tampered-realistic", "TIF"), ("ground-truth", "PNG"))],
        {
            "k/Canon_60D/tampered-realistic/DPP0012.TIF": ("tampered", "k/Canon_60D/ground-truth/DPP0012.PNG", ""),
            "k/Canon_60D/pristine/DPP0012.TIF": ("real", "", ""),
            "k/Sony_A57/pristine/DPP0012.TIF": ("real", "", ""),
        },
    ),
    "FaceAPP": (
        ["faceapp/train/1.png", "faceapp/validation/2.png", "faceapp/test/3.png"],
        {"faceapp/validation/2.png": ("deepfake", "", "val"), "faceapp/test/3.png": ("deepfake", "", "test")},
    ),
    "FFHQ": (["ffhq-dataset/images1024x1024/00000/00012.png"], {}),
    "COCO2017": (
        ["coco/train2017/9.jpg", "coco/val2017/8.jpg"],
        {"coco/train2017/9.jpg": ("real", "", "train"), "coco/val2017/8.jpg": ("real", "", "val")},
    ),
    "GenVideo": (
        ["GenVideo-Val/Real/a.mp4", "GenVideo-Val/Fake/Sora/b.mp4"],
        {"GenVideo-Val/Real/a.mp4": ("real", "", ""), "GenVideo-Val/Fake/Sora/b.mp4": ("ai_generated", "", "")},
    ),
    "GenImage": (
        ["GenImage/Midjourney/train/ai/1.png", "GenImage/ADM/imagenet_ai_0508_adm/val/nature/2.JPEG"],
        {
            "GenImage/Midjourney/train/ai/1.png": ("ai_generated", "", "train"),
            "GenImage/ADM/imagenet_ai_0508_adm/val/nature/2.JPEG": ("real", "", "val"),
        },
    ),
    "CommunityForensics": (["CommunityForensics/fake/1.png", "CommunityForensics/real/2.png"], {}),
    "SID-Set": (
        [f"SID_Set/train/{n}" for n in ("real/1.jpg", "full_synthetic/2.png", "tampered/3.png", "masks/3.png")],
        {
            "SID_Set/train/full_synthetic/2.png": ("ai_generated", "", "train"),
            "SID_Set/train/tampered/3.png": ("tampered", "SID_Set/train/masks/3.png", "train"),
        },
    ),
    "FakeClue": (
        ["FakeClue/train/ff++/fake/a/1.jpg", "FakeClue/train/doc/fake/m/2.jpg", "FakeClue/test/doc/real/3.jpg"],
        {
            "FakeClue/train/ff++/fake/a/1.jpg": ("deepfake", "", "train"),
            "FakeClue/train/doc/fake/m/2.jpg": ("ai_generated", "", "train"),
            "FakeClue/test/doc/real/3.jpg": ("real", "", "test"),
        },
    ),
    "SynthScars": (
        ["SynthScars/train/images/1.jpg", "SynthScars/test/images/2.jpg"],
        {"SynthScars/test/images/2.jpg": ("ai_generated", "", "test")},
    ),
    "FaceForensics++": (
        [f"f/original_sequences/youtube/c23/videos/{n}.mp4" for n in ("033", "097", "500")]
        + [f"f/manipulated_sequences/Deepfakes/c23/videos/{n}.mp4" for n in ("033_097", "500_033")],
        {
            "f/original_sequences/youtube/c23/videos/033.mp4": ("real", "", ""),
            "f/manipulated_sequences/Deepfakes/c23/videos/033_097.mp4": ("deepfake", "", ""),
        },
    ),
    "DFDC-preview": (
        ["d/original_videos/643/643_A_001.mp4", "d/method_A/643/643_A/12_643_A_001.mp4"],
        {"d/method_A/643/643_A/12_643_A_001.mp4": ("deepfake", "", "")},
    ),
    "IVY-FAKE": (
        ["IVY-FAKE/train/image/fake/1.png", "IVY-FAKE/test/video/real/2.mp4"],
        {
            "IVY-FAKE/train/image/fake/1.png": ("ai_generated", "", "train"),
            "IVY-FAKE/test/video/real/2.mp4": ("real", "", "test"),
        },
    ),
}
