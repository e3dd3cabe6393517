-- The audit of sigma: what in the data itself moves it. All of it is mean l1, the distance that is stored.

-- Two images are nearly the same where their values differ by two of 255 levels or less, on average.
create macro near_duplicate() as 2 / 255;

-- Bootstrap of the mean distance (Efron 1979): 95 % percentile interval of 1,000 means, each of as many images as there
-- are, drawn with replacement. More than 500 images are drawn in 500 groups of equal size, put together by chance,
-- which has the same standard error. The draws come from a hash: the same for all, and the same when made again.
create view mean_distance as
with numbered as materialized (
    select study, split, neighbours, distance,
           ((row_number() over in_chance - 1) % 500)::ubigint as part
    from bound window in_chance as (partition by study, split, neighbours order by hash(image_id), image_id)
), parts as materialized (
    select study, split, neighbours, part, sum(distance) as total, count(*) as images
    from numbered group by all
), sizes as (
    select study, split, neighbours, count(*) as parts from parts group by all
), draws as materialized (  -- before the join, which then is one of equal values
    select s.*, d.draw, hash(d.draw, p.place) % s.parts as part
    from sizes s, (select unnest(range(1000)) as draw) d, (select unnest(range(500)) as place) p
    where p.place < s.parts
), means as (
    select d.study, d.split, d.neighbours, d.draw, sum(g.total) / sum(g.images) as mean
    from draws d
    join parts g on g.study = d.study and g.split = d.split and g.neighbours = d.neighbours and g.part = d.part
    group by d.study, d.split, d.neighbours, d.draw
)
select m.study, m.split, m.neighbours, b.images, b.mean, quantile_cont(m.mean, 0.025) as low,
       quantile_cont(m.mean, 0.975) as high
from means m
join (
    select study, split, neighbours, count(*) as images, avg(distance) as mean from bound group by all
) b using (study, split, neighbours)
group by m.study, m.split, m.neighbours, b.images, b.mean
order by m.study, m.split desc, m.neighbours desc;

-- Every image beside its nearest training image of another class and of any class.
--   is_suspect    the nearest is of another class, and no farther than half of all images are from their nearest: the
--                 label of one of the two may be wrong. (The distances to both kinds are the same there.)
--   closer        share of the split's images that are closer to their nearest, in per cent
create view neighbours_of_both_kinds as
with placed as (
    select o.study, o.split, o.image_id, o.label, o.neighbour_id as other_id, o.neighbour_label as other_label,
           o.distance as other_distance, a.neighbour_id as any_id, a.neighbour_label as any_label,
           a.distance as any_distance,
           median(a.distance) over (partition by o.study, o.split) as median_distance,
           100 * percent_rank() over (partition by o.study, o.split order by a.distance) as closer
    from bound o
    join bound a
        on a.study = o.study and a.split = o.split and a.image_id = o.image_id
        and a.neighbours = 'any_class' and o.neighbours = 'other_class'
)
select *, any_label <> label and any_distance <= median_distance as is_suspect from placed;

-- The audit of sigma: duplicates, near-duplicates and suspected labels of each split, in images.
--   same_duplicates, other_duplicates    whose nearest of the same or of another class is the very same image
--   same_near, other_near                nearly the same, duplicates left out
--   disagreeing    whose nearest training image is of another class; suspects: see neighbours_of_both_kinds
--   other_*, any_* sigma at k = 1 by both kinds of neighbour, mean with its bootstrap interval
create view sigma_audit as
with counted as (
    select study, split, count(*) as images,
           count(*) filter (any_distance = 0 and any_label = label) as same_duplicates,
           count(*) filter (other_distance = 0) as other_duplicates,
           count(*) filter (any_distance > 0 and any_distance <= near_duplicate() and any_label = label) as same_near,
           count(*) filter (other_distance > 0 and other_distance <= near_duplicate()) as other_near,
           count(*) filter (any_label <> label) as disagreeing, count(*) filter (is_suspect) as suspects
    from neighbours_of_both_kinds group by study, split
)
select c.study, s.dataset, c.split, c.images, c.same_duplicates, c.other_duplicates, c.same_near, c.other_near,
       c.disagreeing, c.suspects, sigma(o.mean, 1) as other_mean, sigma(o.low, 1) as other_low,
       sigma(o.high, 1) as other_high, sigma(a.mean, 1) as any_mean, sigma(a.low, 1) as any_low,
       sigma(a.high, 1) as any_high
from counted c
join studies s on s.study = c.study
left join mean_distance o on o.study = c.study and o.split = c.split and o.neighbours = 'other_class'
left join mean_distance a on a.study = c.study and a.split = c.split and a.neighbours = 'any_class'
order by c.study, c.split desc;

-- Images whose label, or whose neighbour's, may be wrong: the closest first.
create view suspected_labels as
select n.study, s.dataset, n.split, n.image_id, n.label, n.any_id as neighbour_id, n.any_label as neighbour_label,
       n.any_distance as distance, n.median_distance, n.closer
from neighbours_of_both_kinds n join studies s on s.study = n.study
where n.is_suspect
order by n.study, n.any_distance, n.split, n.image_id;
