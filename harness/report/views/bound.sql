-- The bound: Table II, Fig. 4.

-- Table II: sigma over the training images, for both readings of "nearest neighbour".
create view table2 as
with distances as (
    select study, neighbours, min(distance) as low, avg(distance) as mean, max(distance) as high
    from bound where split = 'train' group by study, neighbours
)
select s.study, s.dataset, kind.neighbours, kind.k,
       sigma(d.low, kind.k) as sigma_min, sigma(d.mean, kind.k) as sigma_mean,
       sigma(d.high, kind.k) as sigma_max,
       p.sigma_min as paper_min, p.sigma_mean as paper_mean, p.sigma_max as paper_max
from studies s
cross join (
    from (values ('other_class'), ('any_class')) a(neighbours),
         (values (1.0::double), (2.0), (2.5), (3.0)) b(k)
) kind
left join distances d on d.study = s.study and d.neighbours = kind.neighbours
left join paper_table2 p on p.dataset = s.paper and p.k = kind.k
order by s.study, kind.neighbours desc, kind.k;

-- Fig. 4: share of the training images by distance, 20 bins of equal width from 0 to the largest.
create view class_distance as
with scaled as (
    select study, neighbours, distance, max(distance) over (partition by study, neighbours) as top
    from bound where split = 'train'
), binned as (
    select study, neighbours, top, bin_of_20(distance, top) as bin, count(*) as images
    from scaled group by all
), bins as (
    select study, neighbours, top, sum(images) as total, unnest(range(20))::int as bin
    from binned group by study, neighbours, top
)
select b.study, s.dataset, b.neighbours, b.bin, b.bin * b.top / 20 as low, (b.bin + 1) * b.top / 20 as high,
       coalesce(f.images, 0) as images, coalesce(f.images, 0) / b.total as share
from bins b
join studies s on s.study = b.study
left join binned f on f.study = b.study and f.neighbours = b.neighbours and f.bin = b.bin
order by b.study, b.neighbours desc, b.bin;
