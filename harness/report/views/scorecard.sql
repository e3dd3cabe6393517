-- The paper's claims, judged by rules: paper/claims.csv has each claim, where the paper makes it, and its rule.

-- Training images of the paper (IV): 40 of 200 classes of 500 images for Tiny ImageNet.
create macro paper_training_images(dataset) as
    case dataset when 'mnist' then 60000 when 'cifar10' then 50000 when 'tinyimagenet' then 20000 end;

-- Whether a difference that should be above 0 is, from its interval and the lowest and the highest of the seeds.
create macro shown_above_0(low, high, lowest, highest) as
    case when low is null or high is null then 'not shown'  -- a seed of several: no interval yet
         when low > 0 and lowest > 0 then 'reproduced'
         when high < 0 and highest < 0 then 'not reproduced' else 'not shown' end;

create macro seeds_in_words(seeds, of_seeds) as
    case when of_seeds = 1 then 'one seed: test images only' else seeds || ' of ' || of_seeds || ' seeds' end;

-- Table II.
create view scorecard_sigma as
with counts as (
    select study, neighbours, count(*) as images from bound where split = 'train' group by study, neighbours
), judged as (
    select t.*, s.paper as paper_dataset, c.images,
           coalesce(c.images, 0) < 0.9 * paper_training_images(s.paper) as is_cut
    from table2 t join studies s on s.study = t.study
    left join counts c on c.study = t.study and c.neighbours = t.neighbours
    where t.paper_mean is not null
)
select study, 'sigma' as claim, format('k = {:g}, nearest of {}', k, replace(neighbours, '_', ' ')) as item,
       paper_mean as paper, sigma_mean as ours, 'sigma' as unit, images,
       case when is_cut then 'not measured here'
            when greatest(abs(sigma_min - paper_min), abs(sigma_mean - paper_mean), abs(sigma_max - paper_max)) < .001
                then 'reproduced' else 'not reproduced' end as verdict,
       format('smallest {:.4f}, largest {:.4f}; the paper''s {:g}, {:g}', sigma_min, sigma_max, paper_min, paper_max)
           || if(is_cut, format('; {:,} of the paper''s {:,} training images: fewer are farther apart',
                                coalesce(images, 0), paper_training_images(paper_dataset)), '') as rests_on,
       100 * k + if(neighbours = 'other_class', 0, 1) as place
from judged;

-- Table III. One of its numbers is in the text: C&W on MNIST (V-C).
create view scorecard_within as
with shares as (
    select e.study, s.paper as paper_dataset, s.effectiveness_k, e.attack, e.epsilon, e.attack_title, e.seed, e.images,
           e.within_mean_sigma as share, wilson_low(e.within_mean_sigma / 100 * e.images, e.images) as low,
           wilson_high(e.within_mean_sigma / 100 * e.images, e.images) as high, e.position,
           s.neighbours, e.mean_sigma
    from effectiveness e join studies s on s.study = e.study
    where s.paper is not null and e.within_mean_sigma is not null
), means as (
    select study, paper_dataset, effectiveness_k, attack, epsilon, any_value(attack_title) as attack_title,
           count(*) as seeds, of_seeds, max(images) as images, avg(share) as ours,
           seeds_low(share, of_seeds, low) as low, seeds_high(share, of_seeds, high) as high,
           any_value(neighbours) as neighbours, any_value(mean_sigma) as mean_sigma, min(position) as place
    from shares join seeds_of using (study)
    group by study, paper_dataset, effectiveness_k, attack, epsilon, of_seeds
), claimed as (
    select *, case when paper_dataset = 'mnist' then 'few'
                   when paper_dataset = 'cifar10' and (attack in ('deepfool', 'jsma', 'cw_l2')
                        or attack = 'fgsm' and (same_epsilon(epsilon, 2 / 255) or same_epsilon(epsilon, 4 / 255)))
                       then 'most' end as side
    from means
)
select study, 'within' as claim, attack, epsilon, attack_title, attack_title || coalesce(': ' || side, '') as item,
       case when paper_dataset = 'mnist' and attack = 'cw_l2' then 17.85 end as paper, ours, low, high, '%' as unit,
       images, seeds,
       case when effectiveness_k <> 2 then 'not measured here'
            when side is null then 'unreadable'
            when side = 'most' and low > 50 or side = 'few' and high < 50 then 'reproduced'
            when side = 'most' and high < 50 or side = 'few' and low > 50 then 'not reproduced'
            else 'not shown' end as verdict,
       format('mean sigma {:.4f} (k = {:g}, {}); {}', mean_sigma, effectiveness_k, replace(neighbours, '_', ' '),
              seeds_in_words(seeds, of_seeds)) as rests_on, place
from claimed;

-- Tables IV to VI: the networks of the bound's defense against the base network. The row shows the network that does
-- worst (clean_raised: best), the verdict is of all. control: whether the best control does as well.
create view scorecard_base as
with paper as (
    select d.dataset as paper_dataset, d.attack, d.epsilon, min(d.accuracy - b.accuracy) as least,
           max(d.accuracy - b.accuracy) as most
    from paper_black_box d
    join paper_black_box b
        on b.method = 'base' and b.dataset = d.dataset and b.attack = d.attack and same_epsilon(b.epsilon, d.epsilon)
    where d.method = 'imperceptible_bound' group by d.dataset, d.attack, d.epsilon
), credited as (
    select c.study, c.access, c.attack, c.epsilon, count(*) as networks,
           count(*) filter (better = 'yes') as better, count(*) filter (better = 'no') as worse,
           avg(control_accuracy) as control_accuracy, any_value(control_title) as control_title
    from credit_over_seeds c
    where c.access in ('clean', 'black_box') and c.role = 'defense' and c.method = 'imperceptible_bound'
    group by c.study, c.access, c.attack, c.epsilon
), grouped as (
    select study, any_value(paper_dataset) as paper_dataset, access, attack, epsilon,
           any_value(attack_title) as attack_title, max(images) as images, min(seeds) as seeds, of_seeds,
           count(*) as networks, min(difference) as least, arg_min(low, difference) as least_low,
           arg_min(high, difference) as least_high, arg_min(title_a, difference) as least_title,
           max(difference) as most, arg_max(low, difference) as most_low, arg_max(high, difference) as most_high,
           arg_max(title_a, difference) as most_title, arg_max(lowest, difference) as most_lowest,
           arg_max(highest, difference) as most_highest,
           count(*) filter (low > 0 and lowest > 0) as above, count(*) filter (high < 0 and highest < 0) as below,
           count(*) filter (low > -1) as kept, count(*) filter (high < -1 and highest < -1) as lost,
           min(position) as place
    from contests_over_seeds where contest = 'base'
    group by study, access, attack, epsilon, of_seeds
), joined as (
    select g.*, p.least as paper_least, p.most as paper_most,
           case when c.better = c.networks then 'none does as well'
                else format('{} {:.1f} %: {} of {} shown above it, {} below', replace(c.control_title, 'control: ', ''),
                            c.control_accuracy, c.better, c.networks, c.worse) end as control,
           seeds_in_words(g.seeds, g.of_seeds) as on_seeds
    from grouped g
    left join paper p
        on p.paper_dataset = g.paper_dataset and p.attack = g.attack and same_epsilon(p.epsilon, g.epsilon)
    left join credited c
        on c.study = g.study and c.access = g.access and c.attack = g.attack and c.epsilon is not distinct from g.epsilon
)
select study, 'above_base' as claim, attack_title as item, paper_least as paper, least as ours, least_low as low,
       least_high as high, 'points' as unit, images, seeds,
       case when above = networks then 'reproduced' when below > 0 then 'not reproduced' else 'not shown' end as verdict,
       control, format('smallest of {} networks ({}), {} shown above; {}', networks, least_title, above, on_seeds)
           as rests_on, place
from joined where access = 'black_box'
union all by name
select study, 'clean_kept' as claim, 'clean' as item, paper_least as paper, least as ours, least_low as low,
       least_high as high, 'points' as unit, images, seeds,
       case when kept = networks then 'reproduced' when lost > 0 then 'not reproduced' else 'not shown' end as verdict,
       control, format('smallest of {} networks ({}), {} shown to lose less than a point; {}', networks, least_title,
                       kept, on_seeds)
           || if(paper_least < -1, '; the paper''s own table loses more', '') as rests_on, place
from joined where access = 'clean'
union all by name
select study, 'clean_raised' as claim, 'clean' as item, paper_most as paper, most as ours, most_low as low,
       most_high as high, 'points' as unit, images, seeds,
       shown_above_0(most_low, most_high, most_lowest, most_highest) as verdict, control,
       format('largest of {} networks ({}), chosen on these images; {}', networks, most_title, on_seeds)
           || if(paper_most <= 0, '; the paper''s own table does not raise it', '') as rests_on, place
from joined where access = 'clean';

-- V-C, on MNIST: more of an attack's images are defended than are within the mean sigma, which the paper estimates the
-- accuracy by. The interval of the difference is Newcombe's, from those of both.
create view scorecard_estimate as
with defended as (
    select study, attack, epsilon, min(accuracy) as accuracy, arg_min(low, accuracy) as defended_low,
           arg_min(high, accuracy) as defended_high, arg_min(title, accuracy) as title, count(*) as networks,
           min(paper) as paper_accuracy
    from over_seeds
    where layout = 'black_box' and access = 'black_box' and role = 'defense' and method = 'imperceptible_bound'
        and paper_dataset = 'mnist'
    group by study, attack, epsilon
), compared as (
    select w.* exclude (paper, low, high), d.* exclude (study, attack, epsilon), paper_accuracy - paper as paper,
           accuracy - ours - sqrt(pow(accuracy - defended_low, 2) + pow(high - ours, 2)) as low,
           accuracy - ours + sqrt(pow(defended_high - accuracy, 2) + pow(ours - low, 2)) as high
    from scorecard_within w
    join defended d on d.study = w.study and d.attack = w.attack and d.epsilon is not distinct from w.epsilon
)
select study, 'above_estimate' as claim, attack_title as item, paper, accuracy - ours as ours, low, high, 'points' as unit,
       images, seeds,
       if(verdict = 'not measured here', verdict, shown_above_0(low, high, low, high)) as verdict,
       format('smallest of {} networks ({}) {:.1f} %, within the mean sigma {:.1f} %', networks, title, accuracy, ours)
           as rests_on, place
from compared;

-- The strongest k (V-E), and Table VII.
create view scorecard_contests as
with paper as (
    select dataset as paper_dataset, attack, epsilon,
           max(accuracy) filter (method = 'imperceptible_bound')
               - max(accuracy) filter (method = 'adversarial_images') as difference
    from paper_table7 group by dataset, attack, epsilon
), signed as (  -- below adversarial training is what the paper prints for JSMA
    select c.*, p.difference as paper, if(coalesce(p.difference, 1) < 0, -1, 1) as side
    from contests_over_seeds c
    left join paper p
        on c.contest = 'adversarial_training' and p.paper_dataset = c.paper_dataset and p.attack = c.attack
        and same_epsilon(p.epsilon, c.epsilon)
    where c.contest in ('adversarial_training', 'strongest_k')
)
select study, contest as claim,
       case contest when 'strongest_k' then format('k = {:g}', strongest_k(paper_dataset)) else attack_title end as item,
       paper, difference as ours, low, high, 'points' as unit, images, seeds,
       shown_above_0(if(side > 0, low, -high), if(side > 0, high, -low), if(side > 0, lowest, -highest),
                     if(side > 0, highest, -lowest)) as verdict,
       format('{} {:.1f} %, against {} {:.1f} %; {}', title_a, accuracy_a, title_b, accuracy_b,
              seeds_in_words(seeds, of_seeds)) as rests_on, position as place
from signed;

-- Robust within the bound; the white box.
create view scorecard_white_box as
with ks as (
    select distinct study, name, k from accuracies where role = 'defense' and method = 'imperceptible_bound'
), own as (  -- each network at its own k, of each k the least refuted
    select b.*, o.refuted as of_base
    from bound_test_over_seeds b
    join ks on ks.study = b.study and ks.name = b.name and ks.k = b.k
    left join bound_test_over_seeds o on o.study = b.study and o.k = b.k and o.role = 'base'
    where b.refuted is not null
    qualify row_number() over (partition by b.study, b.k order by b.refuted, b.position) = 1
), weakest as (  -- of each network and seed the smallest over step sizes
    select study, paper_dataset, name, any_value(title) as title, seed, epsilon, any_value(attack_title) as attack_title,
           any_value(images) as images, min(accuracy) as accuracy, arg_min(low, accuracy) as low,
           arg_min(high, accuracy) as high, min(position) as position
    from accuracies
    where access = 'white_box' and attack_method = 'pgd' and role = 'defense' and method = 'imperceptible_bound'
        and accuracy is not null
    group by study, paper_dataset, name, seed, epsilon
), attacked as (
    select study, paper_dataset, name, any_value(title) as title, epsilon, any_value(attack_title) as attack_title,
           count(*) as seeds, of_seeds, max(images) as images, avg(accuracy) as ours,
           seeds_low(accuracy, of_seeds, low) as low, seeds_high(accuracy, of_seeds, high) as high,
           min(position) as place
    from weakest join seeds_of using (study)
    where paper_dataset in ('mnist', 'cifar10')
    group by study, paper_dataset, name, epsilon, of_seeds
    qualify row_number() over (partition by study, epsilon order by avg(accuracy) desc, min(position)) = 1
)
select study, 'within_robust' as claim, format('k = {:g}', k) as item, null as paper, refuted as ours, low, high,
       '%' as unit, images, seeds,
       case when high < 5 then 'reproduced' when low > 5 then 'not reproduced' else 'not shown' end as verdict,
       format('base {:.1f} %', of_base) as control,
       format('refuted for {}; {}', title, seeds_in_words(seeds, of_seeds)) as rests_on, k as place
from own
union all by name
select study, 'white_box' as claim, attack_title as item, null as paper, ours, low, high, '%' as unit, images, seeds,
       'unreadable' as verdict, format('the highest of the bound''s networks ({}), smallest over step sizes; {}', title,
                                       seeds_in_words(seeds, of_seeds)) as rests_on, place
from attacked;

-- V-F, where the data base holds studies of several sizes of the same data: a row for each attack, beside the bound's
-- network that adversarial training comes closest to.
create view scorecard_complexity as
select s.study, 'complexity' as claim, c.title as item, c.difference as ours, c.low, c.high, 'slope' as unit,
       c.most as images, shown_above_0(c.low, c.high, c.low, c.high) as verdict,
       format('slopes {:.2f}, bound {:.2f} ({}), over {} sizes from {:,} images; at the most it takes {:.2g} times as long',
              c.slope, c.bound_slope, c.bound_title, c.sizes, c.fewest, c.ratio) as rests_on, c.position as place
from complexity_claim c join studies s on s.dataset = c.dataset and s.architecture = c.architecture
qualify row_number() over (partition by s.study, c.name, c.device order by c.difference, c.bound_position) = 1;

-- Every claim in every study, a row for each thing that it speaks of; of a claim that a study says nothing about, one.
--   paper, ours, low, high    in the unit; null where there is none
--   verdict    reproduced, not reproduced, not shown (the interval holds the other side), unreadable, not measured here
--   control    whether a network without the defense does as well
create view scorecard as
with evidence as (
    from scorecard_sigma
    union all by name from scorecard_within
    union all by name from scorecard_base
    union all by name from scorecard_estimate
    union all by name from scorecard_contests
    union all by name from scorecard_white_box
    union all by name from scorecard_complexity
)
select s.study, s.dataset, c.claim, c.source, c.words, c.rule, e.item, e.paper, e.ours, e.low, e.high, e.unit, e.images,
       e.seeds, coalesce(e.verdict, 'not measured here') as verdict, e.control,
       coalesce(e.rests_on, 'needs ' || c.needs) as rests_on
from studies s cross join paper_claims c
left join evidence e on e.study = s.study and e.claim = c.claim
order by s.study, c.position, e.place;
