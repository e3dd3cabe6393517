-- Two networks on the same test images, where a claim of the paper sets one against the other.

-- 95 % interval of the mean difference over a group's seeds: t of the seeds' differences, as both networks of a seed
-- share its base network; of a study of one seed the paired interval over the images.
create macro difference_low(x, of_seeds, images_low) as if(
    of_seeds = 1, any_value(images_low), avg(x) - t_975(count(x) - 1) * stddev_samp(x) / sqrt(count(x)));
create macro difference_high(x, of_seeds, images_high) as if(
    of_seeds = 1, any_value(images_high), avg(x) + t_975(count(x) - 1) * stddev_samp(x) / sqrt(count(x)));

-- The k of the network that the paper calls its strongest (V-E).
create macro strongest_k(paper_dataset) as case paper_dataset when 'mnist' then 3.0 when 'cifar10' then 2.0 end;

-- Who meets whom in each seed; line: what the rows of all seeds have in common.
--   base                   each network of the bound's defense, against the base network
--   adversarial_training   its best network for an attack, against the best one trained on adversarial images: both
--                          chosen on these test images, as in Table VII
--   strongest_k            its best network of the paper's strongest k on clean images, against the best of another
create view contestants as
with shown as (
    select study, paper_dataset, access, attack, attack_title, epsilon, seed, role, method, name, title, k, n,
           accuracy, position
    from accuracies where access in ('clean', 'black_box') and accuracy is not null
), defended as (
    from shown where role = 'defense' and method = 'imperceptible_bound'
), best_defended as (
    from defended where access = 'black_box'
    qualify row_number() over (
        partition by study, seed, attack, epsilon order by accuracy desc, position
    ) = 1
), best_trained as (
    from shown where access = 'black_box' and role = 'baseline' and method = 'adversarial_images'
    qualify row_number() over (
        partition by study, seed, attack, epsilon order by accuracy desc, position
    ) = 1
), best_of_k as (
    select *, k = strongest_k(paper_dataset) as is_papers from defended
    where access = 'clean' and strongest_k(paper_dataset) is not null
    qualify row_number() over (partition by study, seed, is_papers order by accuracy desc, position) = 1
), met as (
    select 'base' as contest, d.name as line, d.*, b.name as b, b.title as title_b, b.accuracy as accuracy_b
    from defended d
    join shown b
        on b.role = 'base' and b.study = d.study and b.seed = d.seed and b.attack = d.attack
        and b.epsilon is not distinct from d.epsilon
    union all by name
    select 'adversarial_training' as contest, 'best' as line, d.*, t.name as b, t.title as title_b,
           t.accuracy as accuracy_b
    from best_defended d
    join best_trained t
        on t.study = d.study and t.seed = d.seed and t.attack = d.attack and t.epsilon is not distinct from d.epsilon
    union all by name
    select 'strongest_k' as contest, 'best' as line, a.* exclude (is_papers), b.name as b, b.title as title_b,
           b.accuracy as accuracy_b
    from best_of_k a join best_of_k b on b.study = a.study and b.seed = a.seed and a.is_papers and not b.is_papers
)
select contest, line, study, paper_dataset, access, attack, attack_title, epsilon, seed, name as a, title as title_a,
       k, n, accuracy as accuracy_a, b, title_b, accuracy_b, position
from met;

-- Each contest of a seed, counted image by image, in points.
--   only_a, only_b    images that one of the two alone is right on; low, high: paired 95 % interval
create view contests as
with counted as (
    select c.contest, c.study, c.seed, c.access, c.attack, c.epsilon, c.a, c.b, count(*) as images,
           count(*) filter (x.is_right and not y.is_right) as only_a,
           count(*) filter (y.is_right and not x.is_right) as only_b
    from contestants c
    join outcomes x
        on x.study = c.study and x.seed = c.seed and x.access = c.access and x.attack = c.attack
        and x.epsilon is not distinct from c.epsilon and x.name = c.a
    join outcomes y
        on y.study = c.study and y.seed = c.seed and y.access = c.access and y.attack = c.attack
        and y.epsilon is not distinct from c.epsilon and y.name = c.b and y.image_id = x.image_id
    group by c.contest, c.study, c.seed, c.access, c.attack, c.epsilon, c.a, c.b
)
select c.*, n.images, n.only_a, n.only_b, 100 * (n.only_a - n.only_b) / n.images as difference,
       paired_low(n.only_a, n.only_b, n.images) as low, paired_high(n.only_a, n.only_b, n.images) as high
from contestants c
join counted n
    on n.contest = c.contest and n.study = c.study and n.seed = c.seed and n.access = c.access
    and n.attack = c.attack and n.epsilon is not distinct from c.epsilon and n.a = c.a and n.b = c.b
order by c.study, c.contest, c.position, c.seed;

-- Each contest, the mean over the seeds; lowest, highest: of the seeds.
create view contests_over_seeds as
select contest, line, study, any_value(paper_dataset) as paper_dataset, access, attack,
       any_value(attack_title) as attack_title, epsilon, count(*) as seeds, of_seeds, max(images) as images,
       array_to_string(list_sort(list(distinct title_a)), ', ') as title_a,
       array_to_string(list_sort(list(distinct title_b)), ', ') as title_b,
       common(k) as k, common(n) as n, avg(accuracy_a) as accuracy_a, avg(accuracy_b) as accuracy_b,
       avg(difference) as difference, min(difference) as lowest, max(difference) as highest,
       difference_low(difference, of_seeds, low) as low, difference_high(difference, of_seeds, high) as high,
       min(position) as position
from contests join seeds_of using (study)
group by contest, line, study, access, attack, epsilon, of_seeds
order by study, contest, min(position);
