"""The tables of a COCO index, and the longer questions that are put to them."""

TABLES = """
CREATE TABLE image (place INTEGER PRIMARY KEY, split TEXT, name TEXT, coco_id INTEGER,
    license INTEGER, annotated INTEGER DEFAULT 0, chosen INTEGER DEFAULT 1);
CREATE UNIQUE INDEX image_name ON image (split, name);
CREATE TABLE listed (name TEXT, coco_id INTEGER);
CREATE TABLE absent (split TEXT, name TEXT, PRIMARY KEY (split, name)) WITHOUT ROWID;
CREATE TABLE named (file INTEGER, coco_id INTEGER, place INTEGER, PRIMARY KEY (file, coco_id))
    WITHOUT ROWID;
CREATE TABLE object (place INTEGER, file INTEGER, category INTEGER, mention INTEGER,
    PRIMARY KEY (place, file, category)) WITHOUT ROWID;
CREATE TABLE category (file INTEGER, id INTEGER, name TEXT, PRIMARY KEY (file, id)) WITHOUT ROWID;
CREATE TABLE caption (place INTEGER, mention INTEGER, text TEXT, PRIMARY KEY (place, mention))
    WITHOUT ROWID;
CREATE TABLE queue (category TEXT, rank INTEGER, place INTEGER,
    PRIMARY KEY (category, rank, place)) WITHOUT ROWID;
"""
"""`object` holds each category once an image and annotation file, in the order of its mention."""

CATEGORIES_OF = """
SELECT category.name FROM object JOIN category
ON category.file = object.file AND category.id = object.category
WHERE object.place = ? ORDER BY object.file, object.mention
"""
"""The names of what an image shows, by its place."""

FILL_QUEUES = """
INSERT INTO queue SELECT DISTINCT coalesce(category.name, ''), rank(coco_id, split, image.name),
    image.place
FROM image LEFT JOIN object ON object.place = image.place
LEFT JOIN category ON category.file = object.file AND category.id = object.category
WHERE image.chosen
"""
"""Every chosen image into the queue of each category it shows, or of none; `rank` shuffles them."""
