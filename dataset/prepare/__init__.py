"""What the recipes data/prepare_*.py share: whole clips, splits, a reader of videos, the manifest and the report.

Prepared layout, the same for every data set of clips:

    <out>/AudioWAV/<clip>.wav                               or what else stands beside the frames
    <out>/Image-{fps:02d}-FPS/<clip>/00001.jpg ...
    <out>/train.csv, test.csv                               rows `clip,label`, no header; val.csv where it is published
    <out>/train_by_<group>.csv, test_by_<group>.csv         no group (actor, speaker) in both parts, where there is one
    <out>/manifest.json                                     settings, counts, failures, sha256 of the split files
    <out>/Image-{fps:02d}-FPS.json                          bytes of the files of each clip, by which damage is seen
    <out>/sources.json                                      size and time of the raw files that each clip is made from
"""
